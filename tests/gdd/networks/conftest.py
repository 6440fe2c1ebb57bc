"""Makers of pickles of EDM's shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from edm_writer import TINY, TINY_ARGUMENTS, Foreign

from gdd.config.architecture import Architecture
from gdd.networks.preconditioning import Denoiser


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Foreign]:
    """Return a maker of pickles, with the names of 2022 (True) or of today (False)."""
    return lambda old=False: Foreign(monkeypatch, old)


@pytest.fixture
def tiny(foreign: Callable[[bool], Foreign], tmp_path: Path) -> Path:
    """A small network as a pickle, with everything that the large ones have."""
    torch.manual_seed(0)
    denoiser = Denoiser(Architecture(**TINY))
    maker = foreign(False)
    buffers = {name for name, _ in denoiser.named_buffers()}
    return maker.write(tmp_path / "tiny.pkl", maker.network(TINY_ARGUMENTS, denoiser.state_dict(), buffers))
