"""What a student is trained on, as functions: tensors in, one loss per image out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from gdd.adversary import losses
from gdd.config.recipe import Sampler
from gdd.diffusion.sampler import heun_step
from gdd.diffusion.sampling import Pairs, solve
from gdd.networks.preconditioning import Denoiser, OneStepGenerator
from gdd.randomness import noise, stream


@dataclass(frozen=True)
class DistributionalLoss:
    """The two sides of a GAN loss on logits, each returning `[B]`."""

    generator: Callable[[losses.Logits], Tensor]
    discriminator: Callable[[losses.Logits, losses.Logits], Tensor]


DISTRIBUTIONAL = {
    "softplus": DistributionalLoss(losses.softplus_generator_loss, losses.softplus_discriminator_loss),
    "hinge": DistributionalLoss(losses.hinge_generator_loss, losses.hinge_discriminator_loss),
}


@dataclass(frozen=True)
class RealImages:
    """One group of the data: images `[B, C, H, W]` in [-1, 1], one-hot labels or None, the group's index."""

    images: Tensor
    class_labels: Tensor | None
    group: int


class InstanceLoss(Protocol):
    """A loss that ties each single output of the student to the teacher: `[B]` for one group."""

    def __call__(self, generator: OneStepGenerator, average: OneStepGenerator, reals: RealImages) -> Tensor:
        """Return the loss of every image of the group; `average` is the generator's EMA."""
        ...


class DirectLoss:
    """Squared error to the end of the teacher's ODE from the same noise (arXiv:2101.02388).

    Takes pairs solved beforehand, drawn at random for every group.
    """

    def __init__(self, pairs: Pairs, seed: int) -> None:
        self.pairs = pairs
        self.seed = seed

    def __call__(
        self,
        generator: OneStepGenerator,
        average: OneStepGenerator,  # noqa: ARG002
        reals: RealImages,
    ) -> Tensor:
        """Return the mean squared error over the pixels of each image."""
        draws = stream(self.seed, "pair choice", reals.group)
        chosen = torch.randint(len(self.pairs.z), (len(reals.images),), generator=draws)
        one_hot = None
        if self.pairs.labels is not None:
            one_hot = functional.one_hot(self.pairs.labels[chosen], generator.arch.label_dim).float()
        device = reals.images.device
        output = generator(self.pairs.z[chosen].to(device), one_hot)
        return squared_error(output, self.pairs.x[chosen].to(device))


class SolvingDirectLoss:
    """As `DirectLoss`, but every group's noise is fresh and the teacher solves its ODE there and then."""

    def __init__(self, teacher: Denoiser, sampler: Sampler, seed: int) -> None:
        self.teacher = teacher
        self.sampler = sampler
        self.seed = seed

    def __call__(
        self,
        generator: OneStepGenerator,
        average: OneStepGenerator,  # noqa: ARG002
        reals: RealImages,
    ) -> Tensor:
        """Return the mean squared error over the pixels of each image."""
        z = noise(self.seed, "pair noise", reals.group, tuple(reals.images.shape)).to(reals.images.device)
        target = solve(self.teacher, z, self.sampler, reals.class_labels)
        return squared_error(generator(z, reals.class_labels), target)


class ConsistencyLoss:
    """Consistency distillation (arXiv:2303.01469, Algorithm 2) with squared error.

    A data image is noised to a level of the grid, the teacher takes it one Heun step down, and the student's
    jump from above has to meet its average's jump from there.
    """

    def __init__(self, teacher: Denoiser, grid: int, seed: int) -> None:
        self.teacher = teacher
        self.levels = consistency_grid(grid)
        self.seed = seed

    def __call__(self, generator: OneStepGenerator, average: OneStepGenerator, reals: RealImages) -> Tensor:
        """Return the mean squared error over the pixels of each image."""
        count, device = len(reals.images), reals.images.device
        draws = stream(self.seed, "consistency level", reals.group)
        index = torch.randint(1, len(self.levels), (count,), generator=draws)
        above = self.levels[index].float().to(device)
        below = self.levels[index - 1].float().to(device)
        z = noise(self.seed, "consistency noise", reals.group, tuple(reals.images.shape)).to(device)
        noisy = reals.images + above.reshape(-1, 1, 1, 1) * z
        with torch.no_grad():
            stepped = heun_step(self.teacher, noisy, above, below, reals.class_labels)
            target = average.forward_at(stepped, below, reals.class_labels)
        return squared_error(generator.forward_at(noisy, above, reals.class_labels), target)


def consistency_grid(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Tensor:
    """Return the levels [steps + 1], float64, rising from sigma_min to sigma_max (EDM Eq. 5, reversed)."""
    ramp = torch.arange(steps + 1, dtype=torch.float64) / steps
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (low + ramp * (high - low)) ** rho


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of each image, `[B]`."""
    return (output - target).square().flatten(1).mean(1)
