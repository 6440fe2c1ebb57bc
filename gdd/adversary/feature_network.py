"""Frozen feature networks: what the discriminator sees images through (Projected GAN, arXiv:2111.01007)."""

from __future__ import annotations

import copy
import itertools
from abc import abstractmethod
from collections.abc import Sequence
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gdd.errors import UserError
from gdd.networks.classifier import SmallClassifier
from gdd.networks.preconditioning import Denoiser, denoiser_coefficients
from gdd.networks.unet import UNet

TEACHER_SIGMA = 0.1  # the images are clean; the encoder is told the lowest noise level it was much trained on


class FeatureNetwork(nn.Module):
    """The interface of every backbone: images in [-1, 1] to features at several depths, the taps.

    It stays in eval mode whatever mode its owner is put into, and its parameters never take a gradient; the
    gradient still flows to the images.

    Args:
        frozen: everything with weights from a file. A network may have random ones beside it, which then
            belong to the discriminator's own state.
        channels: of the taps, shallow to deep.
        img_channels: that the backbone takes.
        resolution: to which images are resized (bilinear).
        mean: per channel, of images in [0, 1], which the backbone wants subtracted.
        std: per channel, by which it wants the result divided. The defaults leave images as they are.
        channels_last: whether it computes in that memory format, which suits large convolutions.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        frozen: nn.Module,
        channels: Sequence[int],
        *,
        img_channels: int,
        resolution: int,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.5,),
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.frozen = frozen
        self.channels = tuple(channels)
        self.img_channels = img_channels
        self.resolution = resolution
        self.memory_format = torch.channels_last if channels_last else torch.preserve_format
        frozen.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        # With u = (x + 1) / 2 in [0, 1]: (u - mean) / std = x / (2 std) + (1/2 - mean) / std.
        means, stds = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
        self.register_buffer("scale", 0.5 / stds, persistent=False)
        self.register_buffer("shift", (0.5 - means) / stds, persistent=False)
        self.train(False).requires_grad_(False)

    @abstractmethod
    def taps(self, prepared: Tensor) -> list[Tensor]:
        """Return features [B, channels[i], H_i, W_i], shallow to deep, of images as `prepare` makes them."""

    def prepare(self, images: Tensor) -> Tensor:
        """Normalise and resize images [B, C, H, W] in [-1, 1] to what the backbone was trained on."""
        if images.ndim != 4 or images.shape[1] != self.img_channels:
            raise UserError(
                f"A backbone of the discriminator takes images of {self.img_channels} channels, but got "
                f"{tuple(images.shape)}; choose backbones that fit the data set."
            )
        images = images * self.scale + self.shift
        size = (self.resolution, self.resolution)
        if images.shape[2:] != size:
            images = functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
        return images.to(memory_format=self.memory_format)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return features [B, channels[i], H_i, W_i], shallow to deep, of images [B, C, H, W] in [-1, 1]."""
        return self.taps(self.prepare(images))

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Stay in eval mode."""
        return super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:  # noqa: ARG002
        """Stay frozen."""
        return super().requires_grad_(False)


class SmallBackbone(FeatureNetwork):
    """The three stages of a small classifier, trained or random (then with calibrated batch norms)."""

    def __init__(self, net: SmallClassifier) -> None:
        stages = fold_batch_norms(copy.deepcopy(net.stages))
        super().__init__(stages, net.channels, img_channels=net.img_channels, resolution=net.img_resolution)

    def taps(self, prepared: Tensor) -> list[Tensor]:
        """Return what each stage makes of the last one's output."""
        taps = []
        for stage in self.frozen.children():
            prepared = stage(prepared)
            taps.append(prepared)
        return taps


class TeacherEncoder(FeatureNetwork):
    """The last features of each resolution of a teacher's encoder, fine to coarse.

    Class-conditional teachers are given no class (a zero vector).
    """

    def __init__(self, teacher: Denoiser) -> None:
        arch = teacher.arch
        super().__init__(
            copy.deepcopy(teacher.model),
            arch.widths,
            img_channels=arch.img_channels,
            resolution=arch.img_resolution,
        )
        self.sigma = torch.tensor(TEACHER_SIGMA)
        self.label_dim = arch.label_dim

    def taps(self, prepared: Tensor) -> list[Tensor]:
        """Return the encoder's features, one a resolution."""
        coefficients = denoiser_coefficients(self.sigma.to(prepared.device))
        labels = prepared.new_zeros(len(prepared), self.label_dim) if self.label_dim else None
        unet = cast(UNet, self.frozen)
        return unet.encoder_features(coefficients.in_ * prepared, coefficients.noise.reshape(1), labels)


def fold_batch_norms(net: nn.Module) -> nn.Module:
    """Fold each batch norm that comes right after a convolution into it, in place.

    In eval mode it is an affine map per channel, so the result is the same up to rounding, and saves a pass
    over the activations. Where a batch norm holds an activation (timm's do), that takes its place.
    """
    for parent in list(net.modules()):
        for (before, conv), (name, norm) in itertools.pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                parent.add_module(before, fuse_conv_bn_eval(conv.eval(), norm.eval()))
                parent.add_module(name, getattr(norm, "act", nn.Identity()))
    return net
