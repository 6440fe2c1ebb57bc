"""Consistency distillation (CD) and consistency trajectory models (CTM)."""

from __future__ import annotations

import torch
from torch import Tensor

from gdd.diffusion.sampler import heun_step
from gdd.distill.distances import Distance, squared_error
from gdd.distill.objectives import RealImages
from gdd.distill.time_grid import GridObjective, time_grid, with_two_times
from gdd.networks.preconditioning import SIGMA_MIN, Denoiser, OneStepGenerator
from gdd.randomness import noise, stream


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

    def __call__(self, generator: OneStepGenerator, average: OneStepGenerator, reals: RealImages) -> Tensor:
        """Return the distance of each image."""
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
        return self.distance(generator.forward_at(noisy, above, reals.class_labels), target)


class TrajectoryLoss(GridObjective):
    """Consistency trajectory models (arXiv:2310.02279, Algorithm 1), for a two-time student.

    Three levels t > u > s are drawn. The student's jump t -> s has to meet the way over u: there by the
    teacher (see `GridMoves`), on to s by the student's average. Both ends are compared as images, after a
    last jump of the average to 0.002, through which the gradient passes.
    """

    def __call__(self, generator: OneStepGenerator, average: OneStepGenerator, reals: RealImages) -> Tensor:
        """Return the distance of each image."""
        student, target_student = with_two_times(generator), with_two_times(average)
        labels, device = reals.class_labels, reals.images.device
        indices = self.draw(len(reals.images), reals.group)
        start, middle, end = (self.moves.levels[index].to(device) for index in indices)
        z = noise(self.seed, "trajectory noise", reals.group, tuple(reals.images.shape)).to(device)
        noisy = reals.images.double() + start.reshape(-1, 1, 1, 1) * z
        with torch.no_grad():
            at_middle = self.moves.move(target_student, noisy, *indices[:2], labels)
            at_end = target_student.jump(at_middle, middle, end, labels)
            target = target_student.jump(at_end, end, SIGMA_MIN, labels)
        jumped = student.jump(noisy, start, end, labels)
        output = target_student.jump(jumped, end, SIGMA_MIN, labels)
        return self.distance(output.float(), target.float())

    def draw(self, count: int, group: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return `count` indices each of t, u and s: every one uniform below the one before, t from 2."""
        uniform = torch.rand(
            3, count, dtype=torch.float64, generator=stream(self.seed, "trajectory levels", group)
        )
        start = 2 + (uniform[0] * (self.steps - 1)).long()
        middle = 1 + (uniform[1] * (start - 1)).long()
        end = (uniform[2] * middle).long()
        return start, middle, end
