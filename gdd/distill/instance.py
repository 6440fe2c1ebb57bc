"""Instance-based losses: they tie each single output of the student to the teacher.

Here are direct imitation, consistency, and the choice by the recipe; the losses of two-time students are in
`two_times.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from gdd.config.recipe import Objective, Sampler
from gdd.diffusion.sampler import heun_sample, heun_step
from gdd.diffusion.sampling import Pairs, load_pairs
from gdd.distill.distances import Distance, Lpips, squared_error
from gdd.distill.shares import Group
from gdd.distill.two_times import ProgressiveLoss, ReverseConsistencyLoss, TrajectoryLoss, time_grid
from gdd.errors import UserError
from gdd.networks.preconditioning import Denoiser, OneStepGenerator
from gdd.randomness import noise, stream

# (generator, its EMA, a group) -> the loss of each of the group's images, [B]
InstanceLoss = Callable[[OneStepGenerator, OneStepGenerator, Group], Tensor]


class DirectLoss:
    """Distance to the end of the teacher's ODE from the same noise (arXiv:2101.02388).

    Takes pairs solved beforehand, drawn at random for every group.
    """

    def __init__(self, pairs: Pairs, seed: int, distance: Distance = squared_error) -> None:
        self.pairs = pairs
        self.seed = seed
        self.distance = distance

    def __call__(self, generator: OneStepGenerator, _: OneStepGenerator, group: Group) -> Tensor:
        """Return the distance of each image."""
        draws = stream(self.seed, "pair choice", group.index)
        chosen = torch.randint(len(self.pairs.z), (len(group.images),), generator=draws)
        device = group.images.device
        one_hot = None
        if self.pairs.labels is not None:
            indices = self.pairs.labels[chosen].to(device)
            one_hot = functional.one_hot(indices, generator.arch.label_dim).float()
        output = generator(self.pairs.z[chosen].to(device), one_hot)
        return self.distance(output, self.pairs.x[chosen].to(device))


class SolvingDirectLoss:
    """As `DirectLoss`, but every group's noise is fresh and the teacher solves its ODE there and then."""

    def __init__(
        self, teacher: Denoiser, sampler: Sampler, seed: int, distance: Distance = squared_error
    ) -> None:
        self.teacher = teacher
        self.sampler = sampler
        self.seed = seed
        self.distance = distance

    def __call__(self, generator: OneStepGenerator, _: OneStepGenerator, group: Group) -> Tensor:
        """Return the distance of each image."""
        z = noise(self.seed, "pair noise", group.index, tuple(group.images.shape)).to(group.images.device)
        target = heun_sample(self.teacher, z, self.sampler, group.class_labels)
        return self.distance(generator(z, group.class_labels), target)


class ConsistencyLoss:
    """Consistency distillation (arXiv:2303.01469, Algorithm 2).

    A data image is noised to a level of the grid, the teacher takes it one Heun step down, and the student's
    jump from above has to meet its average's jump from there.
    """

    def __init__(self, teacher: Denoiser, grid: int, seed: int, distance: Distance = squared_error) -> None:
        self.teacher = teacher
        self.levels = time_grid(grid)
        self.seed = seed
        self.distance = distance

    def __call__(self, generator: OneStepGenerator, average: OneStepGenerator, group: Group) -> Tensor:
        """Return the distance of each image."""
        count, device, labels = len(group.images), group.images.device, group.class_labels
        draws = stream(self.seed, "consistency level", group.index)
        index = torch.randint(1, len(self.levels), (count,), generator=draws)
        above = self.levels[index].float().to(device)
        below = self.levels[index - 1].float().to(device)
        z = noise(self.seed, "consistency noise", group.index, tuple(group.images.shape)).to(device)
        noisy = group.images + above.reshape(-1, 1, 1, 1) * z
        with torch.no_grad():
            target = average.forward_at(heun_step(self.teacher, noisy, above, below, labels), below, labels)
        return self.distance(generator.forward_at(noisy, above, labels), target)


ON_A_GRID: dict[str, Callable[[Denoiser, int, int, Distance], InstanceLoss]] = {
    "consistency": ConsistencyLoss,
    "consistency-trajectory": TrajectoryLoss,
    "progressive": ProgressiveLoss,
    "reverse-consistency": ReverseConsistencyLoss,
}


def build_instance_loss(
    objective: Objective,
    sampler: Sampler,
    teacher: Denoiser,
    seed: int,
    *,
    pairs: Path | None = None,
    lpips: Path | None = None,
) -> InstanceLoss | None:
    """Return the instance-based loss that a recipe asks for, None for an objective without one.

    Args:
        objective: of the recipe.
        sampler: of the teacher, for an objective that solves its ODE as it goes.
        teacher: in eval mode; it is never given gradients.
        seed: of noise and draws.
        pairs: what `gdd pairs` made, for an objective that takes them.
        lpips: torchvision's VGG-16, for an objective that measures with LPIPS.

    Raises:
        UserError: a file is missing or wrong, or the sampler is stochastic where it must not be.
    """
    if objective.instance is None:
        return None
    distance = _distance(objective, lpips)
    if objective.instance in ON_A_GRID:
        return ON_A_GRID[objective.instance](teacher, objective.grid, seed, distance)
    if sampler.churn > 0:
        raise UserError(
            "Imitating the end of the teacher's ODE needs a deterministic sampler; "
            "set 'teacher_sampler.churn' to 0."
        )
    if objective.pairs == 0:
        return SolvingDirectLoss(teacher, sampler, seed, distance)
    if pairs is None:
        raise UserError("The recipe imitates solved pairs; pass the file that 'gdd pairs' made as --pairs.")
    return DirectLoss(load_pairs(pairs), seed, distance)


def _distance(objective: Objective, lpips: Path | None) -> Distance:
    if objective.distance == "squared":
        return squared_error
    if lpips is None:
        raise UserError(
            "The recipe measures with LPIPS; get its VGG with 'gdd fetch lpips-vgg16' and pass the file "
            "as --lpips."
        )
    return Lpips(lpips)
