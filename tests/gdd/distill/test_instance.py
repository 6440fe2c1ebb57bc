"""Instance-based losses against their formulas.

Direct imitation and consistency with real networks; the two-time losses on data whose ODE is known: Gaussian
data N(mean, spread^2), for which the denoiser is linear and so is the way from one noise level to another.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gdd.config.recipe import Instance, Objective, Sampler
from gdd.data.image_array import to_signed
from gdd.diffusion.sampler import heun_sample, heun_step
from gdd.distill.distances import squared_error
from gdd.distill.instance import (
    INSTANCE,
    TWO_TIMES,
    InstanceLoss,
    Levels,
    OdeSolver,
    Supervision,
    build_instance_loss,
    time_grid,
)
from gdd.distill.shares import Part
from gdd.networks.checkpoint import load_denoiser
from gdd.networks.preconditioning import Denoiser, OneStepGenerator, TwoTimeGenerator, noise_levels
from gdd.randomness import noise, stream

pytestmark = pytest.mark.slow

SEED = 5
SAMPLER = Sampler(steps=3)
INDEX = 3  # the group is the fourth of its run


def group_of(images: Tensor, class_labels: Tensor | None) -> Part:
    return Part(images, class_labels, INDEX * len(images), batch=len(images))


# --- direct imitation and consistency ---------------------------------------------------------------------


@dataclass
class Case:
    """Networks, and a group of four images."""

    teacher: Denoiser
    generator: OneStepGenerator
    average: OneStepGenerator
    group: Part

    def loss(self, file: Path | None = None, **objective: Any) -> Tensor:
        loss = build_instance_loss(Objective(**objective), SAMPLER, self.teacher, SEED, file, None)
        assert loss
        return loss(self.generator, self.average, self.group)


@pytest.fixture(params=[False, True], ids=["unconditional", "conditional"])
def case(toy: Any, request: pytest.FixtureRequest) -> Case:
    teacher = load_denoiser(toy.teachers[request.param])
    generator = OneStepGenerator.from_denoiser(teacher)
    average = copy.deepcopy(generator).requires_grad_(False)
    for parameter in average.parameters():
        parameter *= 0.9
    one_hot = functional.one_hot(torch.tensor(toy.data.labels[:4]), 4).float() if request.param else None
    return Case(teacher, generator, average, group_of(to_signed(toy.data.images[:4]), one_hot))


def test_direct_imitation_solves_where_there_are_no_pairs(case: Case) -> None:
    z, one_hot = noise(SEED, "pair noise", INDEX, (4, 1, 8, 8)), case.group.class_labels
    target = heun_sample(case.teacher, z, SAMPLER, one_hot)
    expected = ((case.generator(z, one_hot) - target) ** 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(case.loss(instance="direct"), expected)


def test_consistency_meets_the_average_one_step_down(case: Case) -> None:
    values = case.loss(instance="consistency", grid=6)
    index = torch.randint(1, 7, (4,), generator=stream(SEED, "consistency level", INDEX))
    z = noise(SEED, "consistency noise", INDEX, (4, 1, 8, 8))
    for image, step in enumerate(index.tolist()):
        above, below = (float(noise_levels(6).flip(0)[step - down]) for down in (0, 1))
        one = slice(image, image + 1)
        label = case.group.class_labels[one] if case.group.class_labels is not None else None
        noisy = case.group.images[one] + above * z[one]
        target = case.average.forward_at(heun_step(case.teacher, noisy, above, below, label), below, label)
        expected = (case.generator.forward_at(noisy, above, label) - target).square().mean()
        assert values[image].item() == pytest.approx(expected.item(), rel=1e-3)
    values.sum().backward()
    without = (*case.average.parameters(), *case.teacher.parameters())
    assert all(parameter.grad is None for parameter in without)
    assert any(parameter.grad is not None for parameter in case.generator.parameters())


# --- two-time students ------------------------------------------------------------------------------------

MEAN, SPREAD = 0.3, 0.4
COUNT = 48


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
def group() -> Part:
    images = MEAN + SPREAD * torch.randn(COUNT, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    return group_of(images, torch.eye(4)[torch.arange(COUNT) % 4] * 0.2)


def loss_of(kind: str, teacher: Any, steps: int) -> InstanceLoss:
    supervision = Supervision(teacher, SAMPLER, None, time_grid(steps), SEED)
    return lambda student, average, group: squared_error(
        *INSTANCE[kind](supervision, student, average, group)
    )


def drawn(kind: str, count: int, steps: int, index: int) -> Levels:
    return TWO_TIMES[kind].draw(count, steps, stream(SEED, f"{TWO_TIMES[kind].purpose} levels", index))


def jump(x: Any, sigma: Any, target: Any, student: Any, label: Tensor | None) -> Tensor:
    """One jump, straight from the definition: an Euler step along (x - g) / sigma."""
    return x + (target - sigma) * (x - student.predict(x, sigma, target, label)) / sigma


def way(x: Tensor, start: int, end: int, grid: Tensor, average: Any, label: Tensor) -> Tensor:
    """What stands for the teacher's way from one index of the grid to another."""
    if start == end:
        return x
    sigma, target = float(grid[start]), float(grid[end])
    if start - end > 1:
        return jump(x, sigma, target, average, label)
    first = (x - true_denoiser(x, torch.tensor(sigma))) / sigma
    euler = x + (target - sigma) * first
    second = (euler - true_denoiser(euler, torch.tensor(target))) / target
    return x + (target - sigma) * (first + second) / 2


@pytest.mark.parametrize("kind", TWO_TIMES)
def test_the_loss_is_its_formula_and_only_the_student_learns(kind: str, group: Part) -> None:
    teacher, student, average = Teacher(), Wrong(0.7), Wrong(0.5).requires_grad_(False)
    values = loss_of(kind, teacher, 8)(student, average, group)
    grid = noise_levels(8).flip(0)
    indices = [tuple(index) for index in torch.stack(list(drawn(kind, COUNT, 8, INDEX)), 1).tolist()]
    z = noise(SEED, f"{TWO_TIMES[kind].purpose} noise", INDEX, tuple(group.images.shape)).double()
    starts = grid[[start for start, _, _ in indices]].reshape(-1, 1, 1, 1)
    noisy = group.images.double() + starts * z
    for image, (start, middle, end) in enumerate(indices):
        one = slice(image, image + 1)
        x, label = noisy[one], group.class_labels[one]  # type: ignore[index]
        t, u, s = (float(grid[index]) for index in (start, middle, end))
        halfway = way(x, start, middle, grid, average, label)
        if kind == "consistency-trajectory":
            target = jump(jump(halfway, u, s, average, label), s, 0.002, average, label)
            output = jump(jump(x, t, s, student, label), s, 0.002, average, label)
        else:
            reached = way(halfway, middle, end, grid, average, label)
            target = x - t * (x - reached) / (t - s)
            output = student.predict(x, t, s, label)
        expected = (output - target).square().mean().item()
        assert values[image].item() == pytest.approx(expected, rel=1e-4, abs=1e-9), (start, middle, end)
    values.mean().backward()
    assert student.scale.grad is not None
    assert student.scale.grad.abs() > 1e-4
    assert teacher.one.grad is average.scale.grad is None


@pytest.mark.parametrize("kind", TWO_TIMES)
def test_a_perfect_student_has_no_loss(kind: str, group: Part) -> None:
    teacher, student = Teacher(), Perfect()
    coarse, fine = (
        loss_of(kind, teacher, steps)(student, student, group).max().item() for steps in (64, 512)
    )
    # What is left is the error of one Heun step, which vanishes with the grid.
    assert coarse < 1e-5
    assert fine < 1e-8
    assert loss_of(kind, teacher, 64)(Wrong(0.5), student, group).min() > 1e-4


@pytest.mark.parametrize(
    ("kind", "steps", "expected"),
    [
        ("progressive", 8, {(8, 4, 0), (4, 2, 0), (8, 6, 4), *((t, t - 1, t - 2) for t in (2, 4, 6, 8))}),
        (
            "consistency-trajectory",
            5,
            {(t, u, s) for t in range(2, 6) for u in range(1, t) for s in range(u)},
        ),
        ("reverse-consistency", 5, {(5, s + 1, s) for s in range(5)}),
    ],
)
def test_every_step_there_is_is_drawn(kind: str, steps: int, expected: set[tuple[int, int, int]]) -> None:
    levels = drawn(kind, 4000, steps, 0)
    assert set(zip(*(level.tolist() for level in levels), strict=True)) == expected
    if kind == "progressive":  # each division a third
        assert (levels.start - levels.end).bincount()[[2, 4, 8]].min() > 1150
    if kind == "consistency-trajectory":
        assert levels.start.bincount()[2:].min() > 850


def test_the_teacher_moves_between_neighbours_alone() -> None:
    teacher, grid = Teacher(), time_grid(4)
    x = torch.randn(3, 1, 2, 2, dtype=torch.float64)
    known = OdeSolver(teacher, Perfect(), grid, None)  # type: ignore[arg-type]
    moved = known.move(x, torch.tensor([4, 3, 2]), torch.tensor([3, 0, 2]))
    assert teacher.rows == 2  # Heun evaluates twice, and the other images are none of its business
    with torch.no_grad():
        expected = heun_step(teacher, x[:1], float(grid[4]), float(grid[3]))
    torch.testing.assert_close(moved[:1], expected)
    torch.testing.assert_close(moved[1], true_way(x[1], grid[3], grid[0]))
    assert torch.equal(moved[2], x[2])


def test_the_configuration_names_every_objective_there_is() -> None:
    assert {*INSTANCE} == {*get_args(Instance)}
