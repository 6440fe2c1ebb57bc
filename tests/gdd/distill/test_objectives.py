from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn import functional

from gdd.config.recipe import Sampler
from gdd.data.image_array import to_signed
from gdd.diffusion.sampler import heun_sample, heun_step, sigma_schedule
from gdd.diffusion.sampling import load_pairs
from gdd.distill.consistency import ConsistencyLoss
from gdd.distill.direct import DirectLoss, SolvingDirectLoss
from gdd.distill.distances import squared_error
from gdd.distill.objectives import DISTRIBUTIONAL, RealImages
from gdd.distill.time_grid import time_grid
from gdd.networks.checkpoint import load_denoiser
from gdd.networks.preconditioning import Denoiser, OneStepGenerator
from gdd.randomness import noise, stream

GROUP, SEED = 4, 9


@pytest.fixture(params=[False, True], ids=["unconditional", "conditional"])
def conditional(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def teacher(world: Any, conditional: bool) -> Denoiser:
    return load_denoiser(world.teachers[conditional])


@pytest.fixture
def generator(teacher: Denoiser) -> OneStepGenerator:
    return OneStepGenerator.from_denoiser(teacher)


@pytest.fixture
def average(generator: OneStepGenerator) -> OneStepGenerator:
    other = copy.deepcopy(generator).requires_grad_(False)
    for parameter in other.parameters():
        parameter *= 0.9
    return other


@pytest.fixture
def reals(world: Any, conditional: bool) -> RealImages:
    one_hot = functional.one_hot(torch.tensor(world.data.labels[:GROUP]), 4).float() if conditional else None
    return RealImages(to_signed(world.data.images[:GROUP]), one_hot, 3)


def test_squared_error_is_a_mean_over_values() -> None:
    output, target = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    expected = [float(((a - b).double() ** 2).sum() / 32) for a, b in zip(output, target, strict=True)]
    assert squared_error(output, target).tolist() == pytest.approx(expected, rel=1e-5)


def test_every_distributional_objective_of_a_recipe_exists() -> None:
    logits = [torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0]])]
    softplus, hinge = DISTRIBUTIONAL["softplus"], DISTRIBUTIONAL["hinge"]
    assert softplus.generator(logits).tolist() == pytest.approx(
        [(0.313262 + 0.048587) / 2 + 0.126928], abs=1e-5
    )
    assert hinge.generator(logits).tolist() == pytest.approx([-2 - 2])
    assert hinge.discriminator(logits, logits).tolist() == pytest.approx([0 + (2 + 4) / 2 + 3])


def test_direct_imitation_takes_pairs_by_group(
    world: Any, conditional: bool, generator: OneStepGenerator, average: OneStepGenerator, reals: RealImages
) -> None:
    pairs = load_pairs(world.pairs[conditional])
    loss = DirectLoss(pairs, SEED)(generator, average, reals)
    chosen = torch.randint(10, (GROUP,), generator=stream(SEED, "pair choice", 3))
    one_hot = functional.one_hot(pairs.labels[chosen], 4).float() if pairs.labels is not None else None
    expected = ((generator(pairs.z[chosen], one_hot) - pairs.x[chosen]) ** 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    assert all(parameter.grad is not None for parameter in generator.parameters())


def test_direct_imitation_solves_where_there_are_no_pairs(
    teacher: Denoiser, generator: OneStepGenerator, average: OneStepGenerator, reals: RealImages
) -> None:
    loss = SolvingDirectLoss(teacher, Sampler(steps=3), SEED)(generator, average, reals)
    z = noise(SEED, "pair noise", 3, (GROUP, 1, 8, 8))
    target = heun_sample(teacher, z, reals.class_labels, steps=3)
    expected = ((generator(z, reals.class_labels) - target) ** 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(loss, expected)


def test_the_grid_of_consistency_is_that_of_the_sampler_upside_down() -> None:
    grid = time_grid(6)
    assert grid[0].item() == pytest.approx(0.002)
    assert grid[-1].item() == pytest.approx(80)
    torch.testing.assert_close(grid.flip(0), sigma_schedule(7)[:-1])
    i = 2
    assert grid[i].item() == pytest.approx(
        (80 ** (1 / 7) + (1 - i / 6) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    )


def test_consistency_meets_the_average_one_step_down(
    teacher: Denoiser, generator: OneStepGenerator, average: OneStepGenerator, reals: RealImages
) -> None:
    loss = ConsistencyLoss(teacher, 6, SEED)(generator, average, reals)
    index = torch.randint(1, 7, (GROUP,), generator=stream(SEED, "consistency level", 3))
    z = noise(SEED, "consistency noise", 3, (GROUP, 1, 8, 8))
    for image, step in enumerate(index.tolist()):
        above, below = (float(time_grid(6)[step - down]) for down in (0, 1))
        one = slice(image, image + 1)
        label = reals.class_labels[one] if reals.class_labels is not None else None
        noisy = reals.images[one] + above * z[one]
        target = average.forward_at(heun_step(teacher, noisy, above, below, label), below, label)
        expected = (generator.forward_at(noisy, above, label) - target).square().mean()
        assert loss[image].item() == pytest.approx(expected.item(), rel=1e-3)
    loss.sum().backward()
    assert all(parameter.grad is None for parameter in average.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad is not None for parameter in generator.parameters())
