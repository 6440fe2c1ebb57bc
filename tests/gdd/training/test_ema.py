from __future__ import annotations

import pytest
import torch
from torch import nn

from gdd.config.recipe import Ema
from gdd.training.ema import averaged_copy, ema_decay, update_average


@pytest.mark.parametrize(
    ("images", "half_life"),
    [(8, 4.0), (100, 50.0), (200, 100.0), (10_000, 100.0)],  # ramp * images, then the half-life itself
)
def test_decay_halves_the_old_average_in_a_half_life(images: int, half_life: float) -> None:
    decay = ema_decay(Ema(half_life=100, ramp=0.5), images, 4)
    assert decay == pytest.approx(0.5 ** (4 / half_life), rel=1e-12)
    assert decay ** (half_life / 4) == pytest.approx(0.5, rel=1e-12)


def test_the_first_step_copies() -> None:
    ema = Ema(half_life=100, ramp=0.05)
    assert ema_decay(ema, 0, 8) == 0
    network = nn.Linear(3, 2)
    average = averaged_copy(nn.Linear(3, 2))
    update_average(average, network, ema_decay(ema, 0, 8))
    assert torch.equal(average.weight, network.weight)


def test_the_average_is_the_weighted_sum() -> None:
    network, average = nn.Linear(3, 2), averaged_copy(nn.Linear(3, 2))
    old = average.weight.double()
    update_average(average, network, 0.9)
    torch.testing.assert_close(
        average.weight.double(), 0.9 * old + 0.1 * network.weight.double(), rtol=1e-6, atol=1e-7
    )
    assert not average.weight.requires_grad


def test_frozen_parameters_are_left_alone() -> None:
    network, average = nn.Linear(3, 2), averaged_copy(nn.Linear(3, 2))
    network.weight.requires_grad_(False)
    before = average.weight.clone()
    update_average(average, network, 0.5)
    assert torch.equal(average.weight, before)
    assert not torch.equal(average.bias, network.bias)


def test_the_copy_is_independent_and_in_eval_mode() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    average = averaged_copy(network)
    assert not average.training
    assert network.training
    with torch.no_grad():
        network[0].weight.zero_()
    assert average[0].weight.abs().sum() > 0
