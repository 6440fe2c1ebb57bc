from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from gdd.training.compiled import compiled


def double(x: Tensor) -> list[list[Tensor]]:
    return [[2 * x], [x.square(), x]]


def test_where_compiling_fails_the_function_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(function: Any) -> Any:
        def call(*_: Any) -> None:
            raise RuntimeError("no C++ compiler\nand much more")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    assert compiled(double, torch.ones(3, requires_grad=True)) is double
    assert "torch.compile does not work here (no C++ compiler); training goes on without it." in caplog.text


def test_both_directions_are_tried(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            raise RuntimeError("no backward")

    monkeypatch.setattr(torch, "compile", lambda function: lambda x: Broken.apply(function(x)))
    assert compiled(torch.square, torch.ones(3, requires_grad=True)) is torch.square
    assert "no backward" in caplog.text


def test_a_compiled_function_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial)
    fast = compiled(double, torch.ones(3, requires_grad=True))
    assert fast is not double
    assert torch.equal(fast(torch.ones(1))[0][0], torch.tensor([2.0]))
