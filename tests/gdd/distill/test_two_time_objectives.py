"""PD, CTM and RCD against their formulas, on data whose ODE is known.

Gaussian data N(mean, spread^2): the denoiser is linear and so is the way from one noise level to another.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gdd.diffusion.sampler import heun_step
from gdd.distill.consistency import TrajectoryLoss
from gdd.distill.distances import squared_error
from gdd.distill.objectives import RealImages
from gdd.distill.progressive import ProgressiveLoss, ReverseConsistencyLoss, image_of_step
from gdd.distill.time_grid import GridMoves, time_grid
from gdd.networks.preconditioning import OneStepGenerator
from gdd.networks.two_time import TwoTimeGenerator
from gdd.randomness import noise

pytestmark = pytest.mark.slow

MEAN, SPREAD = 0.3, 0.4
SEED, GROUP, COUNT = 5, 2, 48
PURPOSES = {
    ProgressiveLoss: "progressive noise",
    TrajectoryLoss: "trajectory noise",
    ReverseConsistencyLoss: "reverse consistency noise",
}
OBJECTIVES = list(PURPOSES)


def column(sigma: Any, x: Tensor) -> Tensor:
    return torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, 1, 1, 1).expand(len(x), 1, 1, 1)


def true_denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    return (SPREAD**2 * x + sigma**2 * MEAN) / (SPREAD**2 + sigma**2)


def true_way(x: Tensor, sigma: Tensor, target: Tensor) -> Tensor:
    """Follow the ODE exactly."""
    return MEAN + (x - MEAN) * ((SPREAD**2 + target**2) / (SPREAD**2 + sigma**2)).sqrt()


class Teacher(nn.Module):
    """The optimal denoiser, with a parameter that must get no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.rows = 0

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        assert not torch.is_grad_enabled()
        self.rows += len(x)
        return self.one * true_denoiser(x, column(sigma, x))


class Perfect(TwoTimeGenerator):
    """Knows the way from every level to every other."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.one = nn.Parameter(torch.ones(()))

    def predict(self, x: Tensor, sigma: Any, target: Any, class_labels: Tensor | None = None) -> Tensor:
        level, reached = column(sigma, x), column(target, x)
        image = (level * true_way(x, level, reached) - reached * x) / (level - reached)
        return self.one * torch.where(level > reached, image, x)


class Wrong(Perfect):
    """Has something else in mind, which its parameter scales."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64))

    def predict(self, x: Tensor, sigma: Any, target: Any, class_labels: Tensor | None = None) -> Tensor:
        level, reached = column(sigma, x), column(target, x)
        shift = 0 if class_labels is None else class_labels[:, :1, None, None]
        return torch.tanh(self.scale * x / (1 + level)) + 0.1 * reached / (1 + reached) + shift


@pytest.fixture
def reals() -> RealImages:
    images = MEAN + SPREAD * torch.randn(COUNT, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    return RealImages(images, torch.eye(4)[torch.arange(COUNT) % 4] * 0.2, GROUP)


def noisy_images(objective: Any, reals: RealImages, start: Tensor) -> Tensor:
    z = noise(SEED, PURPOSES[objective], GROUP, tuple(reals.images.shape))
    return reals.images.double() + start.reshape(-1, 1, 1, 1) * z.double()


def float64(x: Any, sigma: Any, target: Any, student: Any, label: Tensor | None) -> Tensor:
    """One jump, straight from the definition: an Euler step along (x - g) / sigma."""
    image = student.predict(x, sigma, target, label)
    return x + (target - sigma) * (x - image) / sigma


def way(x: Tensor, start: int, end: int, grid: Tensor, average: Any, label: Tensor) -> Tensor:
    """What stands for the teacher's way from one index of the grid to another."""
    if start == end:
        return x
    sigma, target = float(grid[start]), float(grid[end])
    if start - end > 1:
        return float64(x, sigma, target, average, label)
    first = (x - true_denoiser(x, torch.tensor(sigma))) / sigma
    euler = x + (target - sigma) * first
    second = (euler - true_denoiser(euler, torch.tensor(target))) / target
    return x + (target - sigma) * (first + second) / 2


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_is_its_formula(objective: Any, reals: RealImages) -> None:
    teacher, student, average = Teacher(), Wrong(0.7), Wrong(0.5).requires_grad_(False)
    steps = 8
    loss = objective(teacher, steps, SEED)
    values = loss(student, average, reals)
    grid = time_grid(steps)
    indices = [tuple(index) for index in torch.stack(list(loss.draw(COUNT, GROUP)), 1).tolist()]
    noisy = noisy_images(objective, reals, grid[[start for start, _, _ in indices]])
    for image, (start, middle, end) in enumerate(indices):
        one = slice(image, image + 1)
        x, label = noisy[one], reals.class_labels[one]
        t, u, s = (float(grid[index]) for index in (start, middle, end))
        halfway = way(x, start, middle, grid, average, label)
        if objective is TrajectoryLoss:
            target = float64(halfway, u, s, average, label)
            target = float64(target, s, 0.002, average, label)
            output = float64(float64(x, t, s, student, label), s, 0.002, average, label)
        else:
            reached = way(halfway, middle, end, grid, average, label)
            target = x - t * (x - reached) / (t - s)
            output = student.predict(x, t, s, label)
        expected = (output - target).square().mean().item()
        assert values[image].item() == pytest.approx(expected, rel=1e-4, abs=1e-9), (start, middle, end)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_perfect_student_has_no_loss(objective: Any, reals: RealImages) -> None:
    teacher, student = Teacher(), Perfect()
    coarse, fine = (
        objective(teacher, steps, SEED)(student, student, reals).max().item() for steps in (64, 512)
    )
    # What is left is the error of one Heun step, which vanishes with the grid.
    assert coarse < 1e-5
    assert fine < 1e-8
    assert objective(teacher, 64, SEED)(Wrong(0.5), student, reals).min() > 1e-4


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_only_the_student_learns(objective: Any, reals: RealImages) -> None:
    teacher, student, average = Teacher(), Wrong(0.7), Wrong(0.7).requires_grad_(False)
    objective(teacher, 4, SEED)(student, average, reals).mean().backward()
    assert student.scale.grad is not None
    assert student.scale.grad.abs() > 1e-4
    assert teacher.one.grad is None
    assert average.scale.grad is None


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_draws_belong_to_the_group(objective: Any, reals: RealImages) -> None:
    loss = objective(Teacher(), 8, SEED)
    draws = [torch.stack(list(loss.draw(COUNT, group))).tolist() for group in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    student = Wrong(0.7)
    once, again = (loss(student, student, reals) for _ in range(2))
    assert torch.equal(once, again)


def test_progressive_draws_every_part_of_every_division() -> None:
    start, middle, end = ProgressiveLoss(Teacher(), 8, SEED).draw(3000, 0)
    assert set(zip(start.tolist(), middle.tolist(), end.tolist(), strict=True)) == {
        (8, 4, 0),
        (4, 2, 0),
        (8, 6, 4),
        *((top, top - 1, top - 2) for top in (2, 4, 6, 8)),
    }
    widths = (start - end).bincount(minlength=9)[[2, 4, 8]]
    assert widths.min() > 850  # a third each


def test_trajectories_draw_three_levels_downwards() -> None:
    start, middle, end = TrajectoryLoss(Teacher(), 5, SEED).draw(4000, 0)
    expected = {(t, u, s) for t in range(2, 6) for u in range(1, t) for s in range(u)}
    assert set(zip(start.tolist(), middle.tolist(), end.tolist(), strict=True)) == expected
    assert (start.bincount(minlength=6)[2:] - 1000).abs().max() < 150
    assert all(len(part) == 3 for part in TrajectoryLoss(Teacher(), 2, SEED).draw(3, 0))


def test_reverse_consistency_starts_at_the_top() -> None:
    start, middle, end = ReverseConsistencyLoss(Teacher(), 5, SEED).draw(2000, 0)
    assert set(start.tolist()) == {5}
    assert torch.equal(middle, end + 1)
    assert set(end.tolist()) == {0, 1, 2, 3, 4}


def test_moves_ask_the_teacher_only_between_neighbours() -> None:
    teacher, student = Teacher(), Perfect()
    moves = GridMoves(teacher, 4)
    x = torch.randn(3, 1, 2, 2, dtype=torch.float64)
    start, end = torch.tensor([4, 3, 2]), torch.tensor([3, 0, 2])
    moved = moves.move(student, x, start, end)
    assert teacher.rows == 2  # Heun evaluates twice, and the other images are none of its business
    with torch.no_grad():
        expected = heun_step(teacher, x[:1], float(moves.levels[4]), float(moves.levels[3]))
    torch.testing.assert_close(moved[:1], expected)
    assert torch.equal(moved[2], x[2])
    torch.testing.assert_close(moved[1], true_way(x[1], moves.levels[3], moves.levels[0]))


def test_the_image_of_a_step_takes_it_where_it_went() -> None:
    x, image = torch.randn(2, 1, 2, 2).double(), torch.randn(2, 1, 2, 2).double()
    sigma, target = torch.tensor([80.0, 2.0]).double(), torch.tensor([0.002, 1.9]).double()
    ratio = (target / sigma).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(image_of_step(x, ratio * x + (1 - ratio) * image, sigma, target), image)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_one_time_student_is_refused(objective: Any, world: Any, reals: RealImages) -> None:
    student = OneStepGenerator(world.arch())
    with pytest.raises(TypeError, match="trains a TwoTimeGenerator, not a OneStepGenerator"):
        objective(Teacher(), 4, SEED)(student, student, reals)


def test_another_distance_takes_the_place_of_squared_error(reals: RealImages) -> None:
    student = Wrong(0.7)
    for objective in OBJECTIVES:
        tripled = objective(Teacher(), 4, SEED, lambda output, target: 3 * squared_error(output, target))
        expected = 3 * objective(Teacher(), 4, SEED)(student, student, reals)
        torch.testing.assert_close(tripled(student, student, reals), expected)
