from __future__ import annotations

import pytest
import torch
from torch import nn

from gdd.config.recipe import Ema
from gdd.training.gradients import LARGEST, Gradients
from gdd.training.update import averaged_copy, ema_decay, load_optimizer, update_average
from gdd.training.world import ALONE

NAN, INF = float("nan"), float("inf")


def parameters(*gradients: list[float] | None) -> list[nn.Parameter]:
    result = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(3))
        parameter.grad = None if gradient is None else torch.tensor(gradient, dtype=torch.float32)
        result.append(parameter)
    return result


@pytest.mark.parametrize(
    ("before", "after", "count"),
    [
        (
            [[1, NAN, 2], None, [INF, -INF, -3], [4, 5, 6]],
            [[1, 0, 2], None, [LARGEST, -LARGEST, -3], [4, 5, 6]],
            3,
        ),
        # The squared norm of these overflows, which must not be taken for an infinite entry.
        ([[1e30, -2e30, 3e-30], [0, 1, 2]], [[1e30, -2e30, 3e-30], [0, 1, 2]], 0),
        ([None], [None], 0),
    ],
)
def test_nonfinite_gradients_are_replaced_and_counted(
    before: list[list[float] | None], after: list[list[float] | None], count: int
) -> None:
    given = parameters(*before)
    assert Gradients(given, ALONE).finish(ALONE) == count
    for parameter, expected in zip(given, parameters(*after), strict=True):
        assert (parameter.grad is None) == (expected.grad is None)
        assert parameter.grad is None or torch.equal(parameter.grad, expected.grad)


def test_moments_lie_in_memory_as_their_parameters_do() -> None:
    states = []
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = nn.Parameter(torch.arange(36.0).reshape(2, 3, 3, 2).contiguous(memory_format=layout))
        optimizer = torch.optim.Adam([weight])
        if states:
            load_optimizer(optimizer, states[0])
            assert optimizer.state[weight]["exp_avg"].stride() == weight.stride()
        weight.grad = torch.arange(36.0).reshape(2, 3, 3, 2).contiguous(memory_format=layout)
        optimizer.step()
        states.append(optimizer.state_dict())
    # Adam's first step leaves (1 - beta1) g, its second (1 - beta1) (1 + beta1) g.
    first, second = (state["state"][0]["exp_avg"] for state in states)
    torch.testing.assert_close(second, 1.9 * first, check_stride=False)


@pytest.mark.parametrize(
    ("images", "half_life"),
    [(8, 4.0), (100, 50.0), (200, 100.0), (10_000, 100.0)],  # ramp * images, then the half-life itself
)
def test_decay_halves_the_old_average_in_a_half_life(images: int, half_life: float) -> None:
    decay = ema_decay(Ema(half_life=100, ramp=0.5), images, 4)
    assert decay == pytest.approx(0.5 ** (4 / half_life), rel=1e-12)


def test_the_average() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.Dropout()).train()
    average = averaged_copy(nn.Sequential(nn.Linear(3, 2), nn.Dropout()))
    assert not average.training
    update_average(average, network, ema_decay(Ema(half_life=100, ramp=0.05), 0, 8))  # the first step copies
    assert torch.equal(average[0].weight, network[0].weight)
    old = average[0].weight.double()
    bias = average[0].bias.clone()
    network[0].bias.requires_grad_(False)
    with torch.no_grad():
        network[0].weight += 1
        network[0].bias += 1
    update_average(average, network, 0.9)
    torch.testing.assert_close(average[0].weight.double(), old + 0.1, rtol=1e-6, atol=1e-6)
    assert torch.equal(average[0].bias, bias)  # frozen: left alone
    assert not average[0].weight.requires_grad
