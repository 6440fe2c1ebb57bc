"""The grid of noise levels that instance-based objectives move on, and moves along the teacher's ODE."""

from __future__ import annotations

import torch
from torch import Tensor

from gdd.diffusion.sampler import heun_step
from gdd.distill.distances import Distance, squared_error
from gdd.networks.preconditioning import Denoiser, OneStepGenerator
from gdd.networks.two_time import TwoTimeGenerator


def time_grid(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """Return the levels [steps + 1], float64, rising from sigma_min to sigma_max (EDM Eq. 5, reversed)."""
    ramp = torch.arange(steps + 1, dtype=torch.float64) / steps
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (low + ramp * (high - low)) ** rho


class GridMoves:
    """Moves down the ODE between levels of a grid, by the teacher or by what the student knows already.

    A single step of the grid is the teacher's Heun step. A longer way is one jump of the student's average,
    because one step of the teacher would leave the ODE there: that is how what the teacher says of
    neighbouring levels spreads to levels far apart. No gradients are recorded.

    Args:
        teacher: the denoiser whose ODE it is.
        steps: of the grid from 0.002 to 80.
    """

    def __init__(self, teacher: Denoiser, steps: int) -> None:
        self.teacher = teacher
        self.levels = time_grid(steps)

    @torch.no_grad()
    def move(
        self,
        average: TwoTimeGenerator,
        x: Tensor,
        start: Tensor,
        end: Tensor,
        class_labels: Tensor | None = None,
    ) -> Tensor:
        """Bring every image from its level to another.

        Args:
            average: the student's EMA.
            x: [B, C, H, W], float64, because the results are used in differences.
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


class GridObjective:
    """What objectives on the grid start from.

    Args:
        teacher: whose ODE it is.
        grid: steps from 0.002 to 80.
        seed: of levels and noise.
        distance: between two images, one number each.
    """

    def __init__(self, teacher: Denoiser, grid: int, seed: int, distance: Distance = squared_error) -> None:
        self.moves = GridMoves(teacher, grid)
        self.steps = grid
        self.seed = seed
        self.distance = distance


def with_two_times(generator: OneStepGenerator) -> TwoTimeGenerator:
    """Return the generator itself, which has to be a two-time one."""
    if not isinstance(generator, TwoTimeGenerator):
        raise TypeError(f"This objective trains a TwoTimeGenerator, not a {type(generator).__name__}.")
    return generator
