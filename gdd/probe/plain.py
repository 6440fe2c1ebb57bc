"""A training iteration in the released order of operations, from the formulas, in plain eager PyTorch.

Batch norms of the frozen networks stand after their convolutions, the projection upsamples and then mixes,
memory is contiguous, R1 differentiates the frozen networks twice, and optimizer, average and the cleaning of
gradients go from tensor to tensor. Nothing is computed in vain either: frozen weights take no gradient, and
the discriminator's step keeps no graph of generator and frozen networks. U-Net and heads are those of `gdd`,
of which convolutions, resampling and norms of the U-Net are written out once more.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from gdd.adversary.backbones import BLOCKS, PUBLISHED, Backbone, SmallBackbone, published_backbone
from gdd.adversary.projections import RandomProjection
from gdd.adversary.published_weights import fill
from gdd.adversary.r1 import r1_backward
from gdd.distill.student import Student
from gdd.networks.classifier import SmallClassifier
from gdd.networks.group_norm import GroupNorm
from gdd.networks.layers import Convolution, ResidualInput

_upsampled = functools.partial(functional.interpolate, scale_factor=2.0, mode="bilinear", align_corners=True)


class Batch(NamedTuple):
    """Real images `[B, C, H, W]` in [-1, 1], one-hot labels or None, and noise for both steps."""

    reals: Tensor
    labels: Tensor | None
    noise: Tensor
    fresh_noise: Tensor

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Batch:
        return Batch(*(None if value is None else value.to(device, dtype) for value in self))  # type: ignore[arg-type]


def as_published(name: str, state: Mapping[str, Tensor]) -> Backbone:
    """Return a backbone whose batch norms stand where its publisher has them."""
    published = PUBLISHED[name]
    if published.taps == BLOCKS:  # there is nothing to fold in a transformer
        return published_backbone(name, state, seed=0)
    net: Any = timm.create_model(published.timm, features_only=True, out_indices=published.taps)
    state = {key.replace("features.", "features_"): value for key, value in state.items()}
    fill(net, state, published.unused)
    config = net.pretrained_cfg
    options = {"mean": config["mean"], "std": config["std"]}
    return Backbone(net, net.feature_info.channels(), resolution=config["input_size"][-1], **options)


def unfolded(net: SmallClassifier) -> Backbone:
    """Return a small backbone whose batch norms stand after the convolutions."""
    backbone = SmallBackbone(net)
    backbone.frozen = copy.deepcopy(net.stages).eval().requires_grad_(False)
    return backbone


class PlainTrainer:
    """Generator, discriminator and their optimizers, with the weights of a student before its first step.

    `backbones` are as published, by name. `dtype` is that of weights and of all that is computed; without it
    both are the student's. With `our_unet` the U-Net computes as in `gdd`, in its memory format.
    """

    def __init__(
        self,
        student: Student,
        backbones: Mapping[str, Backbone],
        device: torch.device | str,
        dtype: torch.dtype | None = None,
        *,
        our_unet: bool = False,
    ) -> None:
        assert student.discriminator
        known = student.discriminator.backbones  # random convolutions behind a transformer are the student's
        chosen = {name: of if of.reassembly is None else known[name] for name, of in backbones.items()}
        own = nn.ModuleDict(
            {
                "generator": student.generator,
                "average": student.average,
                "backbones": nn.ModuleDict(chosen),
                "projections": student.discriminator.projections,
                "heads": student.discriminator.heads,
            }
        )
        own = copy.deepcopy(own).to(device, dtype)
        for name, parameter in own.named_parameters():
            if not (our_unet and name.startswith("generator.")):
                parameter.data = parameter.data.contiguous()
        self.generator, self.average, self.backbones, self.projections, self.heads = own.children()
        for network in (self.generator, self.average):
            network.dtype = dtype or network.dtype  # type: ignore[assignment]
        if not our_unet:
            _write_out(self.generator)
        for backbone in self.backbones.children():
            backbone.memory_format = torch.contiguous_format  # type: ignore[assignment]
        self.recipe = student.recipe
        self.trainable = [p for p in self.generator.parameters() if p.requires_grad]
        beta1, beta2 = float(self.recipe.adam.beta1), self.recipe.adam.beta2
        ratio = self.recipe.r1.every / (self.recipe.r1.every + 1)
        # PyTorch's default: one tensor after the other on CPUs, several in a kernel on GPUs.
        self.optimizer = torch.optim.Adam(self.trainable, self.recipe.lr.generator, (beta1, beta2))
        self.discriminator_optimizer = torch.optim.Adam(
            self.heads.parameters(), self.recipe.lr.discriminator * ratio, (beta1**ratio, beta2**ratio)
        )

    def features(self, images: Tensor) -> list[list[Tensor]]:
        return [self._project(name, backbone(images)) for name, backbone in self.backbones.named_children()]

    def _project(self, name: str, taps: list[Tensor]) -> list[Tensor]:
        projection: RandomProjection = self.projections.get_submodule(f"{name}.0")  # type: ignore[assignment]
        outputs: list[Tensor] = []
        for depth in reversed(range(len(taps))):
            x = projection.get_submodule(f"layer{depth}_ccm")(taps[depth])
            mix = projection.get_submodule(f"layer{depth}_csm.out_conv")
            if projection.upsampled:
                outputs.append(mix(_upsampled(x + outputs[-1] if outputs else x)))
            else:
                outputs.append(mix(x + _upsampled(outputs[-1]) if outputs else x))
        return outputs[::-1]

    def logits(self, features: list[list[Tensor]], labels: Tensor | None) -> list[Tensor]:
        return [heads(taps, labels) for heads, taps in zip(self.heads.children(), features, strict=True)]

    def generator_step(self, batch: Batch) -> float:
        self.heads.requires_grad_(False)
        self.optimizer.zero_grad(set_to_none=True)
        features = self.features(self.generator(batch.noise, batch.labels))
        loss = _softplus(self.logits(features, batch.labels), -1)
        loss.backward()
        self._update(self.optimizer, self.trainable)
        return loss.item()

    def discriminator_step(self, batch: Batch) -> float:
        self.heads.requires_grad_(True)
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            fake_features = self.features(self.generator(batch.fresh_noise, batch.labels))
            real_features = self.features(batch.reals)
        loss = _softplus(self.logits(fake_features, batch.labels), 1)
        loss = loss + _softplus(self.logits(real_features, batch.labels), -1)
        loss.backward()
        self._update(self.discriminator_optimizer, list(self.heads.parameters()))
        return loss.item()

    def extract(self, images: Tensor, _: Sequence[int] = (0,)) -> list[list[Tensor]]:
        """Return the features of images, in the discriminator's words."""
        return self.features(images)

    def r1_step(self, batch: Batch, *, twice: bool = True) -> None:
        """Make the step of lazy R1 (StyleGAN2, App. B).

        Without `twice` the frozen networks are not differentiated twice, which a CPU does very slowly: the
        gradient is that of `r1_backward`.
        """
        recipe = self.recipe.r1
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        if not twice:
            like: Any = self
            r1_backward(like, batch.reals, batch.labels, recipe.every * recipe.gamma / 2, (0,))
            return self._update(self.discriminator_optimizer, list(self.heads.parameters()))
        with sdpa_kernel(SDPBackend.MATH):
            reals = batch.reals.detach().requires_grad_(True)
            logits = self.logits(self.features(reals), batch.labels)
            total = torch.stack([of_backbone.sum() for of_backbone in logits]).sum()
            (gradient,) = torch.autograd.grad(total, reals, create_graph=True)
            penalty = gradient.square().sum(dim=(1, 2, 3)).mean()
            (recipe.every * recipe.gamma / 2 * penalty).backward()
        return self._update(self.discriminator_optimizer, list(self.heads.parameters()))

    @torch.no_grad()
    def update_average(self, decay: float = 0.999) -> None:
        for average, parameter in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            average.copy_(parameter.lerp(average, decay))
        for old, buffer in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            old.copy_(buffer)

    @torch.no_grad()
    def _update(self, optimizer: torch.optim.Adam, parameters: list[nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                torch.nan_to_num(parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad)
        optimizer.step()


def _softplus(logits: list[Tensor], sign: int) -> Tensor:
    return torch.stack([functional.softplus(sign * of_backbone).mean() for of_backbone in logits]).sum()


def _write_out(network: nn.Module) -> None:
    """Let a U-Net's layers compute as the release's, one operation after the other."""
    for module in network.modules():
        for kind, forward in (
            (ResidualInput, _residual_input),
            (Convolution, _convolution),
            (GroupNorm, _norm),
        ):
            if isinstance(module, kind):
                module.forward = types.MethodType(forward, module)  # type: ignore[method-assign]
                break


def _convolution(self: Any, x: Tensor) -> Tensor:
    channels = x.shape[1]
    if self.resample == "up":  # EDM's: a grouped transposed convolution
        kernel = (self.resample_filter * 4).to(x.dtype).tile(channels, 1, 1, 1)
        odd = kernel.shape[-1] % 2
        x = functional.conv_transpose2d(x, kernel, None, 2, self.filter_padding, odd, channels)
    elif self.resample == "down":
        kernel = self.resample_filter.to(x.dtype).tile(channels, 1, 1, 1)
        x = functional.conv2d(x, kernel, None, 2, self.filter_padding, 1, channels)
    if self.weight is None:
        return x
    x = functional.conv2d(x, self.weight.to(x.dtype), padding=self.padding)
    return x + self.bias.to(x.dtype)[:, None, None]


def _residual_input(self: Any, x: Tensor) -> Tensor:
    x = functional.conv2d(x, self.weight.to(x.dtype), padding=self.padding + self.filter_padding)
    kernel = self.resample_filter.to(x.dtype).tile(x.shape[1], 1, 1, 1)
    return functional.conv2d(x + self.bias.to(x.dtype)[:, None, None], kernel, None, 2, 0, 1, x.shape[1])


def _norm(self: Any, x: Tensor) -> Tensor:
    x = functional.group_norm(x, self.groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
    return functional.silu(x) if self.silu else x
