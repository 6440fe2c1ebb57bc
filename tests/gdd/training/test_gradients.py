from __future__ import annotations

import torch
from torch import nn

from gdd.training.gradients import LARGEST, replace_nonfinite


def parameters(*gradients: list[float] | None) -> list[nn.Parameter]:
    result = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(3))
        parameter.grad = None if gradient is None else torch.tensor(gradient, dtype=torch.float32)
        result.append(parameter)
    return result


def test_replaces_and_counts() -> None:
    nan, inf = float("nan"), float("inf")
    given = parameters([1, nan, 2], None, [inf, -inf, -3], [4, 5, 6])
    assert replace_nonfinite(given) == 3
    assert [parameter.grad.tolist() for parameter in given if parameter.grad is not None] == [
        [1, 0, 2],
        [LARGEST, -LARGEST, -3],
        [4, 5, 6],
    ]


def test_finite_gradients_stay_as_they_are() -> None:
    # The squared norm of these overflows, which must not be taken for an infinite entry.
    given = parameters([1e30, -2e30, 3e-30], [0, 1, 2])
    assert replace_nonfinite(given) == 0
    assert given[0].grad is not None
    assert given[0].grad.tolist() == torch.tensor([1e30, -2e30, 3e-30]).tolist()


def test_nothing_to_look_at() -> None:
    assert replace_nonfinite([]) == 0
    assert replace_nonfinite(parameters(None)) == 0
