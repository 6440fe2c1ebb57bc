"""Instance-based losses of two-time students, which are told their noise level and the one to reach.

Progressive distillation (PD), consistency trajectories (CTM) and reverse consistency (RCD) differ in the
levels they draw and in what they compare; `KINDS` says both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor

from gdd.diffusion.sampler import heun_step
from gdd.distill.distances import Distance, squared_error
from gdd.distill.shares import Group
from gdd.networks.preconditioning import (
    SIGMA_MAX,
    SIGMA_MIN,
    Denoiser,
    OneStepGenerator,
    TwoTimeGenerator,
    noise_levels,
)
from gdd.randomness import noise, stream


class Levels(NamedTuple):
    """A step from `start` over `middle` down to `end`: indices [B] into the grid, on the CPU."""

    start: Tensor
    middle: Tensor
    end: Tensor


class TwoTimeLoss:
    """A data image is noised to the first of three levels; what the student makes of it has to meet a target.

    Args:
        kind: a key of `KINDS`.
        teacher: whose ODE it is.
        steps: of the grid from 0.002 to 80.
        seed: of levels and noise, which belong to groups.
        distance: between two images, one number each.
    """

    def __init__(
        self, kind: str, teacher: Denoiser, steps: int, seed: int, distance: Distance = squared_error
    ) -> None:
        self.kind = KINDS[kind]
        self.teacher = teacher
        self.steps = steps
        self.levels = time_grid(steps)
        self.seed = seed
        self.distance = distance

    def __call__(self, generator: OneStepGenerator, average: OneStepGenerator, group: Group) -> Tensor:
        """Return the distance of each image, [B]."""
        levels = self.draw(len(group.images), group.index)
        z = noise(self.seed, f"{self.kind.purpose} noise", group.index, tuple(group.images.shape))
        start = self.levels[levels.start].to(group.images.device).reshape(-1, 1, 1, 1)
        noisy = group.images.double() + start * z.to(group.images.device)  # states are used in differences
        student, target_student = cast(TwoTimeGenerator, generator), cast(TwoTimeGenerator, average)
        output, target = self.kind.compare(self, student, target_student, noisy, levels, group.class_labels)
        return self.distance(output.float(), target.float())

    def draw(self, count: int, group: int) -> Levels:
        """Return the levels of `count` images of a group."""
        return self.kind.draw(count, self.steps, stream(self.seed, f"{self.kind.purpose} levels", group))

    @torch.no_grad()
    def move(
        self,
        average: TwoTimeGenerator,
        x: Tensor,
        start: Tensor,
        end: Tensor,
        class_labels: Tensor | None = None,
    ) -> Tensor:
        """Move images x [B, C, H, W] down the ODE, from the level of index `start` [B] to that of `end` [B].

        A single step of the grid is the teacher's Heun step. A longer way is one jump of the student's
        average, because one step of the teacher would leave the ODE there: that is how what the teacher says
        of neighbouring levels spreads to levels far apart.
        """
        moved = x.clone()
        for rows, by_teacher in ((start - end == 1, True), (start - end > 1, False)):
            if not rows.any():
                continue
            chosen = rows.nonzero().flatten()
            above, below = (self.levels[index[chosen]].to(x.device) for index in (start, end))
            chosen = chosen.to(x.device)
            labels = class_labels[chosen] if class_labels is not None else None
            if by_teacher:
                moved[chosen] = heun_step(self.teacher, x[chosen], above, below, labels)
            else:
                moved[chosen] = average.jump(x[chosen], above, below, labels)
        return moved


def time_grid(steps: int) -> Tensor:
    """Return the noise levels [steps + 1], float64, rising from 0.002 to 80."""
    return noise_levels(steps, SIGMA_MIN, SIGMA_MAX)


# --- the levels -------------------------------------------------------------------------------------------


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


# --- what is compared: the student's images, and targets without a gradient -------------------------------


def two_steps_in_one(
    loss: TwoTimeLoss,
    student: TwoTimeGenerator,
    average: TwoTimeGenerator,
    noisy: Tensor,
    levels: Levels,
    class_labels: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Predict the image for which one Euler step from start to end arrives where two over middle do."""
    start, end = (loss.levels[index].to(noisy.device) for index in (levels.start, levels.end))
    halfway = loss.move(average, noisy, levels.start, levels.middle, class_labels)
    reached = loss.move(average, halfway, levels.middle, levels.end, class_labels)
    return student.predict(noisy, start, end, class_labels), image_of_step(noisy, reached, start, end)


def same_end(
    loss: TwoTimeLoss,
    student: TwoTimeGenerator,
    average: TwoTimeGenerator,
    noisy: Tensor,
    levels: Levels,
    class_labels: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Jump from start to end, where the way over middle arrives by `move` and a jump of the average.

    Both are compared as images, after a last jump of the average to 0.002, through which gradients pass.
    """
    start, middle, end = (loss.levels[index].to(noisy.device) for index in levels)
    with torch.no_grad():
        at_middle = loss.move(average, noisy, levels.start, levels.middle, class_labels)
        at_end = average.jump(at_middle, middle, end, class_labels)
        target = average.jump(at_end, end, SIGMA_MIN, class_labels)
    jumped = student.jump(noisy, start, end, class_labels)
    return average.jump(jumped, end, SIGMA_MIN, class_labels), target


def image_of_step(x: Tensor, reached: Tensor, sigma: Tensor, target: Tensor) -> Tensor:
    """Return the image towards which an Euler step from sigma [B] to target [B] takes x to `reached`."""
    slope = (x - reached) / (sigma - target).reshape(-1, 1, 1, 1)
    return x - sigma.reshape(-1, 1, 1, 1) * slope


class Kind(NamedTuple):
    """What tells the losses apart; `purpose` names their random streams."""

    purpose: str
    draw: Callable[[int, int, torch.Generator], Levels]
    compare: Callable[..., tuple[Tensor, Tensor]]


KINDS = {
    # arXiv:2202.00512, all its rounds at once: on longer parts the student's own steps are its teacher.
    "progressive": Kind("progressive", draw_progressive, two_steps_in_one),
    # arXiv:2310.02279, Algorithm 1.
    "consistency-trajectory": Kind("trajectory", draw_trajectory, same_end),
    # The papers' RCD: what is known of the way from 80 spreads downwards, a step of the teacher at a time.
    "reverse-consistency": Kind("reverse consistency", draw_reverse, two_steps_in_one),
}
