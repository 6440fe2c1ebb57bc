"""Images that are made while those before them are evaluated."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gdd.errors import DivergedError
from gdd.metrics.sources import Source, in_turn, open_source
from gdd.networks.checkpoint import load_denoiser, save_network
from gdd.networks.preconditioning import OneStepGenerator


@pytest.fixture
def source(toy: Any, tmp_path: Path) -> Source:
    generator = OneStepGenerator.from_denoiser(load_denoiser(toy.teachers[False]))
    save_network(tmp_path / "plain.safetensors", generator, dataset="blobs")
    return open_source(tmp_path / "plain.safetensors")


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A GPU that is none: what only one can do is left out."""
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    return torch.device("cuda")


def test_on_a_gpu_the_next_images_are_made_before_these_have_been_used(
    source: Source, pretended: torch.device
) -> None:
    batches = [(0, 3), (3, 3), (6, 2)]
    begun = {first: threading.Event() for first, _ in batches}

    def images(start: int, count: int) -> torch.Tensor:
        begun[start].set()
        return source.images(start, count)

    found = []
    for one in in_turn(replace(source, images=images), batches, pretended):
        assert begun[min(3 * len(found) + 3, 6)].wait(10)
        assert found or not begun[6].is_set()  # one batch ahead, and no more
        found.append(one)
    expected = list(in_turn(source, batches, torch.device("cpu")))
    assert [len(one) for one in found] == [3, 3, 2]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_what_goes_wrong_ahead_is_raised_in_its_turn(source: Source, pretended: torch.device) -> None:
    def images(start: int, count: int) -> torch.Tensor:
        if start:
            raise DivergedError("of the second batch")
        return source.images(start, count)

    made = in_turn(replace(source, images=images), [(0, 3), (3, 3)], pretended)
    assert len(next(made)) == 3
    with pytest.raises(DivergedError, match="of the second batch"):
        next(made)
