"""Frozen feature networks: what the discriminator looks through (Projected GAN, arXiv:2111.01007)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gdd.adversary.frozen_convolution import freeze_convolutions
from gdd.errors import UserError
from gdd.networks.classifier import SmallClassifier

# Of images in [0, 1], by channel; what networks trained on ImageNet mostly want (see `mean` and `std` below).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class FeatureNetwork(nn.Module):
    """The interface of every backbone: images in [-1, 1] to features at several depths.

    It stays in eval mode whatever mode its owner is put into, and its parameters never take a gradient; the
    gradient still flows to the images. Whatever input a backbone was trained on is made here, so that callers
    only ever know images in [-1, 1] at their own resolution.

    Args:
        frozen: everything with weights from a file; its parameters are frozen in place. A network may have
            random ones beside it, which then belong to the discriminator's own state.
        channels: of the taps, shallow to deep.
        img_channels: the number of channels the backbone takes.
        resolution: to which images are resized (bilinear); None leaves them as they are.
        mean: per channel, of images in [0, 1], that the backbone wants subtracted.
        std: per channel, by which it wants the result divided. The defaults together mean images in [-1, 1].
        channels_last: whether it computes with each pixel's channels side by side in memory, as does then
            what reads its taps. Large convolutions are faster so, also on CPUs; the result is the same up to
            rounding.
    """

    input_scale: Tensor
    input_shift: Tensor

    def __init__(
        self,
        frozen: nn.Module,
        channels: Sequence[int],
        *,
        img_channels: int,
        resolution: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.channels_last = channels_last
        if channels_last:
            freeze_convolutions(frozen)
            frozen.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.channels = tuple(channels)
        self.img_channels = img_channels
        self.resolution = resolution
        # With u = (x + 1) / 2 in [0, 1]: (u - mean) / std = x / (2 std) + (1/2 - mean) / std.
        std_per_channel = torch.tensor(std if std is not None else [0.5] * img_channels)
        mean_per_channel = torch.tensor(mean if mean is not None else [0.5] * img_channels)
        self.normalises = mean is not None or std is not None
        self.register_buffer("input_scale", (0.5 / std_per_channel)[:, None, None], persistent=False)
        self.register_buffer(
            "input_shift", ((0.5 - mean_per_channel) / std_per_channel)[:, None, None], persistent=False
        )
        self.train(False)

    @abstractmethod
    def taps(self, prepared: Tensor) -> list[Tensor]:
        """Return features [B, channels[i], H_i, W_i], shallow to deep, of images as `prepare` makes them."""

    def prepare(self, images: Tensor) -> Tensor:
        """Normalise and resize images [B, C, H, W] in [-1, 1] to what the backbone was trained on."""
        if images.ndim != 4 or images.shape[1] != self.img_channels:
            raise UserError(
                f"{type(self).__name__} takes images of {self.img_channels} channels; "
                f"got a tensor of shape {tuple(images.shape)}."
            )
        if self.normalises:
            images = images * self.input_scale + self.input_shift
        if self.resolution is not None and images.shape[2:] != (self.resolution, self.resolution):
            size = (self.resolution, self.resolution)
            images = functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return features [B, channels[i], H_i, W_i], shallow to deep, of images [B, C, H, W] in [-1, 1]."""
        return self.taps(self.prepare(images))

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Stay in eval mode."""
        return super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:  # noqa: ARG002
        """Stay frozen."""
        return super().requires_grad_(False)


class StagedNetwork(FeatureNetwork):
    """Stages that follow one another, the children of `frozen`, with a tap after each."""

    def taps(self, prepared: Tensor) -> list[Tensor]:
        """Return what the stages make of the images, shallow to deep."""
        taps = []
        for stage in self.frozen.children():
            prepared = stage(prepared)
            taps.append(prepared)
        return taps


class SmallBackbone(StagedNetwork):
    """The three stages of a small classifier, trained or random (then with calibrated batch norms)."""

    def __init__(self, net: SmallClassifier) -> None:
        net.eval()
        stages = [folded(stage) if isinstance(stage, nn.Sequential) else stage for stage in net.stages]
        super().__init__(
            nn.ModuleList(stages), net.channels, img_channels=net.img_channels, resolution=net.img_resolution
        )


def folded(layers: nn.Sequential) -> nn.Sequential:
    """Return the layers with each batch norm that follows a convolution folded into it.

    In eval mode a batch norm is an affine map per channel, so the convolution can do its work: equal up to
    rounding, and a pass over the activations less. The given layers' weights are left as they are.
    """
    result: list[nn.Module] = []
    for layer in layers:
        if result and isinstance(layer, nn.BatchNorm2d) and isinstance(result[-1], nn.Conv2d):
            result[-1] = fuse_conv_bn_eval(result[-1].eval(), layer.eval())
        else:
            result.append(layer)
    return nn.Sequential(*result)
