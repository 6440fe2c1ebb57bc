"""A training iteration in the released order of operations, from the formulas, in plain eager PyTorch.

Nothing is folded, moved or laid out: batch norms of the frozen networks stand after their convolutions, the
projection upsamples and then mixes, memory is contiguous, real and generated images go through the frozen
networks one after the other, and optimizer, average and the cleaning of gradients go from tensor to tensor.
Nothing is computed in vain either: frozen weights take no gradient, and the discriminator's step keeps no
graph of generator and frozen networks.

The U-Net is that of `gdd`, whose operations are in the released order anyhow, and so are the discriminator's
heads.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from stages import Batch, Losses, Stopwatch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from gdd.adversary.backbones import TransformerBackbone
from gdd.adversary.discriminator import ProjectedDiscriminator
from gdd.config.recipe import Recipe
from gdd.networks.preconditioning import OneStepGenerator


class PlainStages(nn.Module):
    """A frozen network as its publisher has it, cut into the stages whose outputs are the taps."""

    def __init__(
        self, stages: Sequence[nn.Module], mean: Sequence[float], std: Sequence[float], resolution: int = 224
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages).eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self.resolution = resolution

    def forward(self, images: Tensor) -> list[Tensor]:
        x = (images + 1) / 2
        x = (x - self.mean) / self.std
        size = (self.resolution, self.resolution)
        x = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
        taps = []
        for stage in self.stages:
            x = stage(x)
            taps.append(x)
        return taps


PlainBackbone = PlainStages | TransformerBackbone


class PlainDiscriminator(nn.Module):
    """The projected discriminator with the weights of `other`.

    Args:
        backbones: unfolded, by the names that `other` has them under.
        other: whose projections and heads are copied.
    """

    def __init__(self, backbones: Mapping[str, PlainBackbone], other: ProjectedDiscriminator) -> None:
        super().__init__()
        self.backbones = nn.ModuleDict(backbones).requires_grad_(False)
        self.projections = copy.deepcopy(other.projections).requires_grad_(False)
        self.heads = copy.deepcopy(other.heads).to(memory_format=torch.contiguous_format)

    def features(self, images: Tensor) -> list[list[Tensor]]:
        return [self._project(name, backbone(images)) for name, backbone in self.backbones.items()]

    def _project(self, name: str, taps: list[Tensor]) -> list[Tensor]:
        outputs: list[Tensor] = []
        for depth in reversed(range(len(taps))):
            x = self.projections[name].get_submodule(f"layer{depth}_ccm")(taps[depth])
            if outputs:
                x = x + outputs[-1]
            x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
            outputs.append(self.projections[name].get_submodule(f"layer{depth}_csm.out_conv")(x))
        return outputs[::-1]

    def logits(self, features: list[list[Tensor]], labels: Tensor | None) -> list[Tensor]:
        return [heads(taps, labels) for heads, taps in zip(self.heads.values(), features, strict=True)]


class PlainTrainer:
    """Generator, discriminator and their optimizers, with the weights of those given."""

    def __init__(
        self,
        recipe: Recipe,
        generator: OneStepGenerator,
        backbones: Mapping[str, PlainBackbone],
        discriminator: ProjectedDiscriminator,
    ) -> None:
        self.recipe = recipe
        self.generator = copy.deepcopy(generator).train()
        self.average = copy.deepcopy(generator).eval().requires_grad_(False)
        self.discriminator = PlainDiscriminator(backbones, discriminator).train()
        self.discriminator.backbones.eval()
        self.trainable = [p for p in self.generator.parameters() if p.requires_grad]
        self.judging = list(self.discriminator.heads.parameters())
        beta1, beta2 = float(recipe.adam.beta1), recipe.adam.beta2
        ratio = recipe.r1.every / (recipe.r1.every + 1)
        # PyTorch's default: one tensor after the other on CPUs, several in a kernel on GPUs.
        self.optimizer = torch.optim.Adam(self.trainable, recipe.lr.generator, (beta1, beta2))
        self.discriminator_optimizer = torch.optim.Adam(
            self.judging, recipe.lr.discriminator * ratio, (beta1**ratio, beta2**ratio)
        )

    def iteration(self, batch: Batch, clock: Stopwatch) -> Losses:
        self.discriminator.heads.requires_grad_(False)
        self.optimizer.zero_grad(set_to_none=True)
        with clock("generator forward"):
            fakes = self.generator(batch.noise, batch.labels)
        with clock("features forward"):
            leaf = fakes.detach().requires_grad_(True)
            features = self.discriminator.features(leaf)
        with clock("heads forward"):
            logits = self.discriminator.logits(features, batch.labels)
            generator_loss = self._softplus(logits, -1)
        with clock("backward to the images"):
            (gradient,) = torch.autograd.grad(generator_loss, leaf)
            del features, logits
        with clock("generator backward"):
            fakes.backward(gradient)
        with clock("optimizers"):
            self._update(self.optimizer, self.trainable)

        self.discriminator.heads.requires_grad_(True)
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            with clock("generator forward again"):
                fakes = self.generator(batch.fresh_noise, batch.labels)
            with clock("features of fakes"):
                fake_features = self.discriminator.features(fakes)
            with clock("features of reals"):
                real_features = self.discriminator.features(batch.reals)
        with clock("heads forward and backward"):
            fake_logits = self.discriminator.logits(fake_features, batch.labels)
            real_logits = self.discriminator.logits(real_features, batch.labels)
            discriminator_loss = self._softplus(fake_logits, 1) + self._softplus(real_logits, -1)
            discriminator_loss.backward()
        with clock("optimizers"):
            self._update(self.discriminator_optimizer, self.judging)
        with clock("average"):
            self._average()
        return {"generator": generator_loss.item(), "discriminator": discriminator_loss.item()}

    def r1(self, batch: Batch) -> Losses:
        """Make the step of lazy R1."""
        recipe = self.recipe.r1
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        with sdpa_kernel(SDPBackend.MATH):
            reals = batch.reals.detach().requires_grad_(True)
            logits = self.discriminator.logits(self.discriminator.features(reals), batch.labels)
            total = torch.stack([of_backbone.sum() for of_backbone in logits]).sum()
            (gradient,) = torch.autograd.grad(total, reals, create_graph=True)
            penalty = gradient.square().sum(dim=(1, 2, 3)).mean()
            (recipe.every * recipe.gamma / 2 * penalty).backward()
        self._update(self.discriminator_optimizer, self.judging)
        return {"R1": penalty.item()}

    @staticmethod
    def _softplus(logits: list[Tensor], sign: int) -> Tensor:
        losses = [functional.softplus(sign * of_backbone).mean() for of_backbone in logits]
        return torch.stack(losses).sum()

    @torch.no_grad()
    def _update(self, optimizer: torch.optim.Adam, parameters: list[nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                torch.nan_to_num(parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad)
        optimizer.step()

    @torch.no_grad()
    def _average(self, decay: float = 0.999) -> None:
        pairs = zip(self.average.parameters(), self.generator.parameters(), strict=True)
        for average, parameter in pairs:
            average.copy_(parameter.lerp(average, decay))
        for average, buffer in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            average.copy_(buffer)
