"""Gradients of several processes: summed while the backward pass runs, to what they are afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import in_processes
from torch import nn

from gdd.training import gradients as module
from gdd.training.gradients import Gradients
from gdd.training.world import World, join

LAYERS = 6


class Watched(torch.autograd.Function):
    """The identity, which notes when the backward pass goes through it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, events: list[str], event: str) -> torch.Tensor:
        ctx.events, ctx.event = events, event
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        ctx.events.append(ctx.event)
        return gradients[0], None, None


def train(rank: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(module, "BUCKET", 20)  # a layer each
    begin = World.begin_sum

    def begin_sum(self: World, tensor: torch.Tensor) -> Any:
        events.append(f"sum {tensor.numel()}")
        return begin(self, tensor)

    monkeypatch.setattr(World, "begin_sum", begin_sum)
    with join("cpu") as world:
        torch.manual_seed(0)
        network = nn.ModuleList([nn.Linear(4, 4) for _ in range(LAYERS)])
        network[2].requires_grad_(False)
        unused = nn.Parameter(torch.ones(3))
        trained = [unused, *(parameter for parameter in network.parameters() if parameter.requires_grad)]
        gradients = Gradients(trained, world)
        inputs = torch.randn(world.size, 2, 5, 4, requires_grad=True)[rank]  # by process and part
        for part, x in enumerate(inputs):
            for index, layer in enumerate(network):
                x = layer(Watched.apply(x, events, f"layer {index}").sin())
            if part == len(inputs) - 1:
                with gradients.last_backward(world):
                    x.sum().backward()
            else:
                x.sum().backward()
                assert not any(event.startswith("sum") for event in events)
                events.clear()
        events.append("finish")
        own = [parameter.grad.clone() for parameter in trained if parameter.grad is not None]
        world.all_reduce(own)  # as it would be afterwards
        replaced = gradients.finish(world)
        found = [parameter.grad for parameter in trained if parameter.grad is not None]
        equal = all(torch.equal(a, b) for a, b in zip(found, own, strict=True))
        (folder / f"{rank}.json").write_text(json.dumps([events, equal, int(replaced), unused.grad is None]))


def test_sums_begin_before_the_backward_pass_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_processes(2, lambda rank: train(rank, tmp_path, monkeypatch)) == [0, 0]
    for rank in range(2):
        events, equal, replaced, unused = json.loads((tmp_path / f"{rank}.json").read_text())
        assert (equal, replaced, unused) == (True, 0, True)
        assert events.index("sum 20") < events.index("layer 0") < events.index("finish")
        before_the_end = events[: events.index("layer 0")]
        assert before_the_end.count("sum 20") >= LAYERS - 3
