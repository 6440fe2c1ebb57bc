from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from gdd.training.execution import Execution, compiled
from gdd.training.world import World

GPU = torch.device("cuda", 0)


def test_a_cpu_is_left_as_it_is() -> None:
    world = World()
    before = torch.backends.cudnn.allow_tf32
    Execution().set_up(world.device)
    assert torch.backends.cudnn.allow_tf32 == before
    assert Execution().memory_format(world.device) == torch.contiguous_format
    assert Execution(channels_last=True).memory_format(world.device) == torch.channels_last
    assert Execution().memory_format(world.device, 32) == torch.contiguous_format
    assert Execution().memory_format(world.device, 128) == torch.channels_last
    assert Execution(channels_last=False).memory_format(world.device, 128) == torch.contiguous_format
    assert Execution().describe(world) == {"processes": 1}


@pytest.mark.parametrize("tf32", [False, True])
def test_a_gpu_rounds_as_it_is_told_and_says_so(monkeypatch: pytest.MonkeyPatch, tf32: bool) -> None:
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A GPU")
    execution = Execution(tf32=tf32)
    try:
        execution.set_up(GPU)
        assert [place.allow_tf32 for place in places] == [tf32, tf32]
        assert not torch.backends.cudnn.benchmark  # minutes before the first step, and no step faster
    finally:
        for place, allowed in zip(places, before, strict=True):
            place.allow_tf32 = allowed
    assert execution.memory_format(GPU) == torch.channels_last
    assert execution.describe(World(0, 4, GPU)) == {
        "processes": 4,
        "device": "A GPU",
        "tf32": tf32,
        "channels_last": True,
    }


def double(x: Tensor) -> list[list[Tensor]]:
    return [[2 * x], [x.square(), x]]


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        raise RuntimeError("no backward\nand much more")


def broken(*_: Any) -> None:
    raise RuntimeError("no C++ compiler\nand much more")


@pytest.mark.parametrize(
    ("compile", "reason"),
    [
        (lambda function: broken, "no C++ compiler"),
        (lambda function: lambda x: NoBackward.apply(function(x)), "no backward"),
    ],
)
def test_where_compiling_fails_the_function_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, compile: Any, reason: str
) -> None:
    monkeypatch.setattr(torch, "compile", compile)
    assert compiled(torch.square, torch.ones(3, requires_grad=True)) is torch.square
    assert f"torch.compile does not work here ({reason}); training goes on without it." in caplog.text


def test_a_compiled_function_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial)
    fast = compiled(double, torch.ones(3, requires_grad=True))
    assert fast is not double
    assert torch.equal(fast(torch.ones(1))[0][0], torch.tensor([2.0]))
