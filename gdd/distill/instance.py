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
from gdd.distill.two_times import TwoTimeLoss, time_grid
from gdd.errors import UserError
from gdd.networks.preconditioning import Denoiser, OneStepGenerator
from gdd.randomness import noise, stream

# (generator, its EMA, a group) -> the loss of each of the group's images, [B]
InstanceLoss = Callable[[OneStepGenerator, OneStepGenerator, Group], Tensor]


def direct_loss(pairs: Pairs, seed: int, distance: Distance) -> InstanceLoss:
    """Return the distance to the end of the teacher's ODE from the same noise (arXiv:2101.02388).

    The pairs are solved beforehand, and drawn at random for every group.
    """

    def loss(generator: OneStepGenerator, _: OneStepGenerator, group: Group) -> Tensor:
        draws = stream(seed, "pair choice", group.index)
        chosen = torch.randint(len(pairs.z), (len(group.images),), generator=draws)
        device, one_hot = group.images.device, None
        if pairs.labels is not None:
            indices = pairs.labels[chosen].to(device)
            one_hot = functional.one_hot(indices, generator.arch.label_dim).float()
        return distance(generator(pairs.z[chosen].to(device), one_hot), pairs.x[chosen].to(device))

    return loss


def solving_loss(teacher: Denoiser, sampler: Sampler, seed: int, distance: Distance) -> InstanceLoss:
    """Return `direct_loss` with fresh noise for every group, from which the teacher solves its ODE."""

    def loss(generator: OneStepGenerator, _: OneStepGenerator, group: Group) -> Tensor:
        z = noise(seed, "pair noise", group.index, tuple(group.images.shape)).to(group.images.device)
        target = heun_sample(teacher, z, sampler, group.class_labels)
        return distance(generator(z, group.class_labels), target)

    return loss


def consistency_loss(teacher: Denoiser, steps: int, seed: int, distance: Distance) -> InstanceLoss:
    """Return the loss of consistency distillation (arXiv:2303.01469, Algorithm 2).

    A data image is noised to a level of the grid, the teacher takes it one Heun step down, and the student's
    jump from above has to meet its average's jump from there.
    """
    levels = time_grid(steps)

    def loss(generator: OneStepGenerator, average: OneStepGenerator, group: Group) -> Tensor:
        count, device, labels = len(group.images), group.images.device, group.class_labels
        draws = stream(seed, "consistency level", group.index)
        index = torch.randint(1, len(levels), (count,), generator=draws)
        above, below = levels[index].float().to(device), levels[index - 1].float().to(device)
        z = noise(seed, "consistency noise", group.index, tuple(group.images.shape)).to(device)
        noisy = group.images + above.reshape(-1, 1, 1, 1) * z
        with torch.no_grad():
            target = average.forward_at(heun_step(teacher, noisy, above, below, labels), below, labels)
        return distance(generator.forward_at(noisy, above, labels), target)

    return loss


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
    if objective.two_times:
        return TwoTimeLoss(objective.instance, teacher, objective.grid, seed, distance)
    if objective.instance == "consistency":
        return consistency_loss(teacher, objective.grid, seed, distance)
    if sampler.churn > 0:
        raise UserError(
            "Imitating the end of the teacher's ODE needs a deterministic sampler; "
            "set 'teacher_sampler.churn' to 0."
        )
    if objective.pairs == 0:
        return solving_loss(teacher, sampler, seed, distance)
    if pairs is None:
        raise UserError("The recipe imitates solved pairs; pass the file that 'gdd pairs' made as --pairs.")
    return direct_loss(load_pairs(pairs), seed, distance)


def _distance(objective: Objective, lpips: Path | None) -> Distance:
    if objective.distance == "squared":
        return squared_error
    if lpips is None:
        raise UserError(
            "The recipe measures with LPIPS; get its VGG with 'gdd fetch lpips-vgg16' and pass the file "
            "as --lpips."
        )
    return Lpips(lpips)
