"""The same training iteration out of this project's parts, in the order in which its students are trained."""

from __future__ import annotations

import copy

import torch
from stages import Batch, Losses, Stopwatch
from torch import Tensor

from gdd.adversary.discriminator import ProjectedDiscriminator
from gdd.adversary.losses import LOSSES
from gdd.adversary.r1 import r1_backward
from gdd.config.recipe import Recipe
from gdd.networks.preconditioning import OneStepGenerator
from gdd.training.update import averaged_copy, replace_nonfinite, update_average

SOFTPLUS = LOSSES["softplus"]


class OwnTrainer:
    """Generator, discriminator and their optimizers, with copies of the weights of those given.

    Args:
        recipe: rates and R1.
        generator: with its frozen parameters marked.
        discriminator: as `build_discriminator` makes it.
        reuse_fakes: whether the discriminator's step takes the generator's images, and their features.
        low: whether the frozen networks and projections compute in bfloat16.
        tf32: whether a GPU may round the factors of float32 products to 10 bits.
        channels_last: the layout of the generator's and the heads' weights, as `Execution` has it.
    """

    def __init__(
        self,
        recipe: Recipe,
        generator: OneStepGenerator,
        discriminator: ProjectedDiscriminator,
        *,
        reuse_fakes: bool = False,
        low: bool = False,
        tf32: bool = False,
        channels_last: bool = False,
    ) -> None:
        self.recipe = recipe
        self.reuse_fakes, self.low, self.tf32 = reuse_fakes, low, tf32
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.generator = copy.deepcopy(generator).to(memory_format=layout).train()
        self.average = averaged_copy(self.generator)
        self.discriminator = copy.deepcopy(discriminator).train()
        if channels_last:
            self.discriminator.to(memory_format=layout)
        self.trainable = [p for p in self.generator.parameters() if p.requires_grad]
        self.judging = list(self.discriminator.heads.parameters())
        betas, ratio = (recipe.adam.beta1, recipe.adam.beta2), recipe.r1.every / (recipe.r1.every + 1)
        self.optimizer = torch.optim.Adam(self.trainable, recipe.lr.generator, betas, fused=True)
        self.discriminator_optimizer = torch.optim.Adam(
            self.judging,
            recipe.lr.discriminator * ratio,
            (betas[0] ** ratio, betas[1] ** ratio),
            fused=True,
        )

    def features(self, images: Tensor) -> list[list[Tensor]]:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.low):
            features = self.discriminator.extract(images)
        return [[tap.float() for tap in taps] for taps in features]

    def iteration(self, batch: Batch, clock: Stopwatch) -> Losses:
        self.allow_tf32()
        self.discriminator.heads.requires_grad_(False)
        self.optimizer.zero_grad(set_to_none=True)
        with clock("generator forward"):
            fakes = self.generator(batch.noise, batch.labels)
        with clock("features forward"):
            leaf = fakes.detach().requires_grad_(True)
            fake_features = self.features(leaf)
        with clock("heads forward"):
            logits = self.discriminator.logits(fake_features, batch.labels)
            generator_loss = SOFTPLUS.generator(logits).mean()
        with clock("backward to the images"):
            (gradient,) = torch.autograd.grad(generator_loss, leaf)
            del logits
            fake_features = (
                [[tap.detach() for tap in taps] for taps in fake_features] if self.reuse_fakes else []
            )
        with clock("generator backward"):
            fakes.backward(gradient)
        with clock("optimizers"):
            replace_nonfinite(self.trainable)
            self.optimizer.step()

        self.discriminator.heads.requires_grad_(True)
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            if not self.reuse_fakes:
                with clock("generator forward again"):
                    fakes = self.generator(batch.fresh_noise, batch.labels)
                with clock("features of fakes"):
                    fake_features = self.features(fakes)
            with clock("features of reals"):
                real_features = self.features(batch.reals)
        with clock("heads forward and backward"):
            fake_logits = self.discriminator.logits(fake_features, batch.labels)
            real_logits = self.discriminator.logits(real_features, batch.labels)
            discriminator_loss = SOFTPLUS.discriminator(real_logits, fake_logits).mean()
            discriminator_loss.backward()
        with clock("optimizers"):
            replace_nonfinite(self.judging)
            self.discriminator_optimizer.step()
        with clock("average"):
            update_average(self.average, self.generator, 0.999)
        return {"generator": generator_loss.item(), "discriminator": discriminator_loss.item()}

    def r1(self, batch: Batch) -> Losses:
        """Make the step of lazy R1."""
        self.allow_tf32()
        weight = self.recipe.r1.every * self.recipe.r1.gamma / 2
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        penalties = r1_backward(self.discriminator, batch.reals, batch.labels, weight)
        replace_nonfinite(self.judging)
        self.discriminator_optimizer.step()
        return {"R1": penalties.mean().item()}

    def allow_tf32(self) -> None:
        torch.backends.cuda.matmul.allow_tf32 = self.tf32
        torch.backends.cudnn.allow_tf32 = self.tf32
