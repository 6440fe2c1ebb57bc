"""Progressive distillation (PD) and reverse consistency (RCD): one step of the student for two."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from gdd.distill.objectives import RealImages
from gdd.distill.time_grid import GridObjective, with_two_times
from gdd.networks.preconditioning import OneStepGenerator
from gdd.randomness import noise, stream


class Levels(NamedTuple):
    """Where a step starts, the point on its way, and where it ends: indices [B] into the grid."""

    start: Tensor
    middle: Tensor
    end: Tensor


class _TwoStepsInOne(GridObjective, ABC):
    """The student is told where to go and predicts the image that takes it there in one step.

    The target is the image for which a single step from start to end ends where two steps over the middle do.
    """

    purpose: str

    def __call__(self, generator: OneStepGenerator, average: OneStepGenerator, reals: RealImages) -> Tensor:
        """Return the distance of each image."""
        student, target_student = with_two_times(generator), with_two_times(average)
        labels, device = reals.class_labels, reals.images.device
        indices = self.draw(len(reals.images), reals.group)
        start, end = (self.moves.levels[index].to(device) for index in (indices.start, indices.end))
        z = noise(self.seed, f"{self.purpose} noise", reals.group, tuple(reals.images.shape)).to(device)
        noisy = reals.images.double() + start.reshape(-1, 1, 1, 1) * z
        halfway = self.moves.move(target_student, noisy, indices.start, indices.middle, labels)
        reached = self.moves.move(target_student, halfway, indices.middle, indices.end, labels)
        target = image_of_step(noisy, reached, start, end)
        output = student.predict(noisy, start, end, labels)
        return self.distance(output, target.float())

    @abstractmethod
    def draw(self, count: int, group: int) -> Levels:
        """Return the indices of `count` steps."""


class ProgressiveLoss(_TwoStepsInOne):
    """Progressive distillation (arXiv:2202.00512), all its rounds at once, for a two-time student.

    The grid of N steps is cut into n = 1, 2, 4 ... N/2 equal parts, n drawn, and a part of them. The student
    goes through it in one step, like two steps over its half: the teacher's where a half is a step of the
    grid, and for longer parts the ones the student's average takes (see `GridMoves`).
    """

    purpose = "progressive"

    def draw(self, count: int, group: int) -> Levels:
        """See `_TwoStepsInOne.draw`."""
        uniform = torch.rand(
            2, count, dtype=torch.float64, generator=stream(self.seed, "progressive levels", group)
        )
        rounds = self.steps.bit_length() - 1  # the grid has 2^rounds steps
        parts = 2 ** (uniform[0] * rounds).long()
        width = self.steps // parts
        start = (1 + (uniform[1] * parts).long()) * width
        return Levels(start, start - width // 2, start - width)


class ReverseConsistencyLoss(_TwoStepsInOne):
    """Reverse consistency distillation (the papers' RCD), for a two-time student.

    Every step starts at 80 and ends at a level that is drawn. It has to arrive where the step to the level
    above arrives that is then continued by the teacher, so what is known spreads from 80 downwards.
    """

    purpose = "reverse consistency"

    def draw(self, count: int, group: int) -> Levels:
        """See `_TwoStepsInOne.draw`."""
        draws = stream(self.seed, "reverse consistency levels", group)
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
