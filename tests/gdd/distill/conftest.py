"""Students that compute in float64, and the gradients that they are moved by."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from gdd.training.gradients import Gradients
from gdd.training.world import World


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[Tensor]]]:
    """Put everything into float64, and collect the gradients that each optimizer step is made with."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    monkeypatch.setattr(
        "gdd.networks.preconditioning.as_sigma", lambda sigma, x: torch.as_tensor(sigma, dtype=torch.float64)
    )
    monkeypatch.setattr(
        "gdd.distill.shares.to_signed", lambda images: images.permute(0, 3, 1, 2).double() / 127.5 - 1
    )
    found: list[list[Tensor]] = []

    def note(gradients: Gradients, _: World) -> Tensor:
        given = reversed(list(itertools.chain(*gradients.buckets)))
        found.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in given])
        return torch.tensor(0)

    monkeypatch.setattr(Gradients, "finish", note)
    torch.set_default_dtype(torch.float64)
    yield found
    torch.set_default_dtype(torch.float32)
