"""Instance-based losses: they tie each single output of the student to the teacher.

A new one is a function here that `build_instance_loss` chooses, and its name in `gdd.config.recipe.Instance`.
Students of two times are also given the noise level to reach; their losses are in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional

from gdd.config.recipe import Objective, Sampler
from gdd.diffusion.sampler import Pairs, heun_sample, heun_step, load_pairs
from gdd.distill.distances import Distance, load_lpips, squared_error
from gdd.distill.shares import Part
from gdd.errors import UserError
from gdd.networks.preconditioning import SIGMA_MAX, SIGMA_MIN, Denoiser, OneStepGenerator, noise_levels
from gdd.networks.two_time import TwoTimeGenerator
from gdd.randomness import noise, stream

# (generator, its EMA, a part that is one group) -> the loss of each of its images, [B]
InstanceLoss = Callable[[OneStepGenerator, OneStepGenerator, Part], Tensor]


def build_instance_loss(
    objective: Objective,
    sampler: Sampler,
    teacher: Denoiser,
    seed: int,
    pairs: Path | None,
    lpips: Path | None,
) -> InstanceLoss | None:
    """Return the instance-based loss of a recipe, None for an objective without one.

    Args:
        objective: of the recipe.
        sampler: of the teacher, for an objective that solves its ODE as it goes.
        teacher: in eval mode; it is never given gradients.
        seed: of noise and draws, which belong to groups.
        pairs: what `gdd pairs` made, for an objective that takes them.
        lpips: torchvision's VGG-16, for an objective that measures with LPIPS.

    Raises:
        UserError: a file is not what it should be, or the sampler is stochastic where it must not be.
    """
    if objective.instance is None:
        return None
    distance: Distance = squared_error
    if objective.distance == "lpips":
        assert lpips
        distance = load_lpips(lpips)
    if objective.instance in KINDS:
        return two_time_loss(objective.instance, teacher, objective.grid, seed, distance)
    if objective.instance == "consistency":
        return consistency_loss(teacher, objective.grid, seed, distance)
    if sampler.churn > 0:
        raise UserError(
            "Imitating the end of the teacher's ODE needs a deterministic sampler; "
            "set 'teacher_sampler.churn' to 0."
        )
    if objective.pairs == 0:
        return solving_loss(teacher, sampler, seed, distance)
    assert pairs
    return direct_loss(load_pairs(pairs), seed, distance)


def direct_loss(pairs: Pairs, seed: int, distance: Distance) -> InstanceLoss:
    """Return the distance to the end of the teacher's ODE from the same noise (arXiv:2101.02388).

    The pairs are solved beforehand, and drawn at random for every group.
    """

    def loss(generator: OneStepGenerator, _: OneStepGenerator, group: Part) -> Tensor:
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

    def loss(generator: OneStepGenerator, _: OneStepGenerator, group: Part) -> Tensor:
        z = noise(seed, "pair noise", group.index, tuple(group.images.shape)).to(group.images.device)
        target = heun_sample(teacher, z, sampler, group.class_labels)
        return distance(generator(z, group.class_labels), target)

    return loss


def time_grid(steps: int) -> Tensor:
    """Return the noise levels [steps + 1], float64, rising from 0.002 to 80."""
    return noise_levels(steps, SIGMA_MIN, SIGMA_MAX)


def consistency_loss(teacher: Denoiser, steps: int, seed: int, distance: Distance) -> InstanceLoss:
    """Return the loss of consistency distillation (arXiv:2303.01469, Algorithm 2).

    A data image is noised to a level of the grid, the teacher takes it one Heun step down, and the student's
    jump from above has to meet its average's jump from there.
    """
    grid = time_grid(steps)

    def loss(generator: OneStepGenerator, average: OneStepGenerator, group: Part) -> Tensor:
        count, device, labels = len(group.images), group.images.device, group.class_labels
        draws = stream(seed, "consistency level", group.index)
        index = torch.randint(1, len(grid), (count,), generator=draws)
        above, below = grid[index].float().to(device), grid[index - 1].float().to(device)
        z = noise(seed, "consistency noise", group.index, tuple(group.images.shape)).to(device)
        noisy = group.images + above.reshape(-1, 1, 1, 1) * z
        with torch.no_grad():
            target = average.forward_at(heun_step(teacher, noisy, above, below, labels), below, labels)
        return distance(generator.forward_at(noisy, above, labels), target)

    return loss


# --- students of two times ----------------------------------------------------------------------------------


def two_time_loss(kind: str, teacher: Denoiser, steps: int, seed: int, distance: Distance) -> InstanceLoss:
    """Return the loss of `kind` in `KINDS` on a grid of so many steps.

    A data image is noised to the first of three levels; what the student makes of it has to meet a target.
    """
    purpose, draw, compare = KINDS[kind]
    grid = time_grid(steps)

    def loss(generator: OneStepGenerator, average: OneStepGenerator, group: Part) -> Tensor:
        images = group.images
        levels = draw(len(images), steps, stream(seed, f"{purpose} levels", group.index))
        z = noise(seed, f"{purpose} noise", group.index, tuple(images.shape)).to(images.device)
        start = grid[levels.start].to(images.device).reshape(-1, 1, 1, 1)
        noisy = images.double() + start * z  # states are used in differences
        student, target_student = cast(TwoTimeGenerator, generator), cast(TwoTimeGenerator, average)
        way = Way(teacher, target_student, grid, group.class_labels)
        output, target = compare(student, way, noisy, levels)
        return distance(output.float(), target.float())

    return loss


class Levels(NamedTuple):
    """A step from `start` over `middle` down to `end`: indices [B] into the grid, on the CPU."""

    start: Tensor
    middle: Tensor
    end: Tensor


class Way(NamedTuple):
    """The ODE's way down as far as it is known: single steps by the teacher, longer ones by the average."""

    teacher: Denoiser
    average: TwoTimeGenerator
    grid: Tensor
    class_labels: Tensor | None

    @torch.no_grad()
    def move(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Move images x [B, C, H, W] down, from the level of index `start` [B] to that of `end` [B].

        A single step of the grid is the teacher's Heun step. A longer way is one jump of the student's
        average, because one step of the teacher would leave the ODE there: that is how what the teacher says
        of neighbouring levels spreads to levels far apart.
        """
        moved = x.clone()
        for rows, by_teacher in ((start - end == 1, True), (start - end > 1, False)):
            if not rows.any():
                continue
            chosen = rows.nonzero().flatten()
            above, below = (self.grid[index[chosen]].to(x.device) for index in (start, end))
            chosen = chosen.to(x.device)
            labels = self.class_labels[chosen] if self.class_labels is not None else None
            if by_teacher:
                moved[chosen] = heun_step(self.teacher, x[chosen], above, below, labels)
            else:
                moved[chosen] = self.average.jump(x[chosen], above, below, labels)
        return moved


def draw_progressive(count: int, steps: int, source: torch.Generator) -> Levels:
    """Cut the grid of 2^k steps into n = 1, 2, 4 ... 2^(k-1) equal parts, n drawn, and draw one of them."""
    uniform = torch.rand(2, count, dtype=torch.float64, generator=source)
    rounds = steps.bit_length() - 1
    parts = 2 ** (uniform[0] * rounds).long()
    width = steps // parts
    start = (1 + (uniform[1] * parts).long()) * width
    return Levels(start, start - width // 2, start - width)


def draw_trajectory(count: int, steps: int, source: torch.Generator) -> Levels:
    """Draw each level uniformly below the one before, the first from 2."""
    uniform = torch.rand(3, count, dtype=torch.float64, generator=source)
    start = 2 + (uniform[0] * (steps - 1)).long()
    middle = 1 + (uniform[1] * (start - 1)).long()
    return Levels(start, middle, (uniform[2] * middle).long())


def draw_reverse(count: int, steps: int, source: torch.Generator) -> Levels:
    """Start at 80, and draw the end; the middle is the level above it."""
    end = torch.randint(steps, (count,), generator=source)
    return Levels(torch.full_like(end, steps), end + 1, end)


def two_steps_in_one(
    student: TwoTimeGenerator, way: Way, noisy: Tensor, levels: Levels
) -> tuple[Tensor, Tensor]:
    """Predict the image for which one Euler step from start to end arrives where two over middle do."""
    start, end = (way.grid[index].to(noisy.device) for index in (levels.start, levels.end))
    halfway = way.move(noisy, levels.start, levels.middle)
    reached = way.move(halfway, levels.middle, levels.end)
    slope = (noisy - reached) / (start - end).reshape(-1, 1, 1, 1)
    target = noisy - start.reshape(-1, 1, 1, 1) * slope
    return student.predict(noisy, start, end, way.class_labels), target


def same_end(student: TwoTimeGenerator, way: Way, noisy: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
    """Jump from start to end, where the way over middle arrives by `move` and a jump of the average.

    Both are compared as images, after a last jump of the average to 0.002, through which gradients pass.
    """
    start, middle, end = (way.grid[index].to(noisy.device) for index in levels)
    average, labels = way.average, way.class_labels
    with torch.no_grad():
        at_end = average.jump(way.move(noisy, levels.start, levels.middle), middle, end, labels)
        target = average.jump(at_end, end, SIGMA_MIN, labels)
    jumped = student.jump(noisy, start, end, labels)
    return average.jump(jumped, end, SIGMA_MIN, labels), target


class Kind(NamedTuple):
    """A loss's levels, and the student's images and their targets; `purpose` names its random streams."""

    purpose: str
    draw: Callable[[int, int, torch.Generator], Levels]
    compare: Callable[[TwoTimeGenerator, Way, Tensor, Levels], tuple[Tensor, Tensor]]


KINDS = {
    # PD, arXiv:2202.00512, all its rounds at once: on longer parts the student's own steps are its teacher.
    "progressive": Kind("progressive", draw_progressive, two_steps_in_one),
    # CTM, arXiv:2310.02279, Algorithm 1.
    "consistency-trajectory": Kind("trajectory", draw_trajectory, same_end),
    # The papers' RCD: what is known of the way from 80 spreads downwards, a step of the teacher at a time.
    "reverse-consistency": Kind("reverse consistency", draw_reverse, two_steps_in_one),
}
