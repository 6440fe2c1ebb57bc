"""Instance-based losses of two-time students, which are told their noise level and the one to reach.

Consistency trajectories (CTM), progressive distillation (PD) and reverse consistency (RCD).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from gdd.diffusion.sampler import heun_step
from gdd.distill.distances import Distance, squared_error
from gdd.distill.shares import Group
from gdd.networks.preconditioning import SIGMA_MAX, SIGMA_MIN, Denoiser, OneStepGenerator, noise_levels
from gdd.networks.two_time import TwoTimeGenerator
from gdd.randomness import noise, stream


def time_grid(steps: int) -> Tensor:
    """Return the noise levels [steps + 1], float64, rising from 0.002 to 80."""
    return noise_levels(steps, SIGMA_MIN, SIGMA_MAX)


class Levels(NamedTuple):
    """A step from `start` over `middle` down to `end`: indices [B] into the grid, on the CPU."""

    start: Tensor
    middle: Tensor
    end: Tensor


class TwoTimeLoss(ABC):
    """What the three have in common: a data image is noised to `start`, and the teacher knows the way on.

    Noise and levels belong to the group. States are float64, because they are used in differences.

    Args:
        teacher: whose ODE it is.
        grid: steps from 0.002 to 80.
        seed: of levels and noise.
        distance: between two images, one number each.
    """

    purpose: str  # names the random streams

    def __init__(self, teacher: Denoiser, grid: int, seed: int, distance: Distance = squared_error) -> None:
        self.teacher = teacher
        self.steps = grid
        self.levels = time_grid(grid)
        self.seed = seed
        self.distance = distance

    def __call__(self, generator: OneStepGenerator, average: OneStepGenerator, group: Group) -> Tensor:
        """Return the distance of each image, [B]."""
        assert isinstance(generator, TwoTimeGenerator)
        assert isinstance(average, TwoTimeGenerator)
        indices = self.draw(len(group.images), group.index)
        start = self.levels[indices.start].to(group.images.device)
        z = noise(self.seed, f"{self.purpose} noise", group.index, tuple(group.images.shape))
        noisy = group.images.double() + start.reshape(-1, 1, 1, 1) * z.to(group.images.device)
        output, target = self.compare(generator, average, noisy, indices, group.class_labels)
        return self.distance(output.float(), target.float())

    @abstractmethod
    def draw(self, count: int, group: int) -> Levels:
        """Return the levels of `count` images."""

    @abstractmethod
    def compare(
        self,
        student: TwoTimeGenerator,
        average: TwoTimeGenerator,
        noisy: Tensor,
        indices: Levels,
        class_labels: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the student's images and their targets, which have no gradient."""

    def uniform(self, rows: int, count: int, group: int) -> Tensor:
        """Return uniform numbers [rows, count] in [0, 1) for the levels of a group."""
        draws = stream(self.seed, f"{self.purpose} levels", group)
        return torch.rand(rows, count, dtype=torch.float64, generator=draws)

    @torch.no_grad()
    def move(
        self,
        average: TwoTimeGenerator,
        x: Tensor,
        start: Tensor,
        end: Tensor,
        class_labels: Tensor | None = None,
    ) -> Tensor:
        """Move every image down the ODE, from its level of the grid to another.

        A single step of the grid is the teacher's Heun step. A longer way is one jump of the student's
        average, because one step of the teacher would leave the ODE there: that is how what the teacher says
        of neighbouring levels spreads to levels far apart.

        Args:
            average: the student's EMA.
            x: [B, C, H, W].
            start: [B], the indices of the levels of x, on the CPU.
            end: [B], the indices of the levels to reach, at most `start`.
            class_labels: [B, label_dim], one-hot.

        Returns:
            [B, C, H, W] in the dtype of x.
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


class TrajectoryLoss(TwoTimeLoss):
    """Consistency trajectory models (arXiv:2310.02279, Algorithm 1).

    The student's jump from start to end has to meet the way over middle: there by the teacher (see `move`),
    on to end by the student's average. Both ends are compared as images, after a last jump of the average to
    0.002, through which the gradient passes.
    """

    purpose = "trajectory"

    def draw(self, count: int, group: int) -> Levels:
        """Draw each level uniformly below the one before, the start from 2."""
        uniform = self.uniform(3, count, group)
        start = 2 + (uniform[0] * (self.steps - 1)).long()
        middle = 1 + (uniform[1] * (start - 1)).long()
        end = (uniform[2] * middle).long()
        return Levels(start, middle, end)

    def compare(
        self,
        student: TwoTimeGenerator,
        average: TwoTimeGenerator,
        noisy: Tensor,
        indices: Levels,
        class_labels: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """See `TwoTimeLoss.compare`."""
        start, middle, end = (self.levels[index].to(noisy.device) for index in indices)
        with torch.no_grad():
            at_middle = self.move(average, noisy, indices.start, indices.middle, class_labels)
            at_end = average.jump(at_middle, middle, end, class_labels)
            target = average.jump(at_end, end, SIGMA_MIN, class_labels)
        jumped = student.jump(noisy, start, end, class_labels)
        return average.jump(jumped, end, SIGMA_MIN, class_labels), target


class TwoStepsInOne(TwoTimeLoss):
    """The student predicts the image that takes it from start to end in one step.

    The target is the image for which such a step ends where two steps over middle do.
    """

    def compare(
        self,
        student: TwoTimeGenerator,
        average: TwoTimeGenerator,
        noisy: Tensor,
        indices: Levels,
        class_labels: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """See `TwoTimeLoss.compare`."""
        start, end = (self.levels[index].to(noisy.device) for index in (indices.start, indices.end))
        halfway = self.move(average, noisy, indices.start, indices.middle, class_labels)
        reached = self.move(average, halfway, indices.middle, indices.end, class_labels)
        output = student.predict(noisy, start, end, class_labels)
        return output, image_of_step(noisy, reached, start, end)


class ProgressiveLoss(TwoStepsInOne):
    """Progressive distillation (arXiv:2202.00512), all its rounds at once.

    The grid of N steps is cut into n = 1, 2, 4 ... N/2 equal parts, n drawn, and a part of them. The student
    goes through it in one step, like two steps over its half: the teacher's where a half is a step of the
    grid, and for longer parts the ones the student's average takes (see `move`).
    """

    purpose = "progressive"

    def draw(self, count: int, group: int) -> Levels:
        """Draw the number of parts, and one of them."""
        uniform = self.uniform(2, count, group)
        rounds = self.steps.bit_length() - 1  # the grid has 2^rounds steps
        parts = 2 ** (uniform[0] * rounds).long()
        width = self.steps // parts
        start = (1 + (uniform[1] * parts).long()) * width
        return Levels(start, start - width // 2, start - width)


class ReverseConsistencyLoss(TwoStepsInOne):
    """Reverse consistency distillation (the papers' RCD).

    Every step starts at 80 and ends at a level that is drawn. It has to arrive where the step to the level
    above arrives that is then continued by the teacher, so what is known spreads from 80 downwards.
    """

    purpose = "reverse consistency"

    def draw(self, count: int, group: int) -> Levels:
        """Draw the end."""
        draws = stream(self.seed, f"{self.purpose} levels", group)
        end = torch.randint(self.steps, (count,), generator=draws)
        return Levels(torch.full_like(end, self.steps), end + 1, end)


def image_of_step(x: Tensor, reached: Tensor, sigma: Tensor, target: Tensor) -> Tensor:
    """Return the image that an Euler step leads towards which takes x at sigma to `reached` at target.

    Args:
        x: [B, C, H, W] at the levels `sigma` [B].
        reached: [B, C, H, W] at the levels `target` [B], which are smaller.
    """
    slope = (x - reached) / (sigma - target).reshape(-1, 1, 1, 1)
    return x - sigma.reshape(-1, 1, 1, 1) * slope
