"""Published weights with a few wrong bytes: each file is read, or refused in one sentence, soon and in little memory."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from mutations import told
from random_weights import write_augreg

from gdd.adversary.published_weights import WeightsProblem, read_augreg, read_state
from gdd.errors import UserError

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory is measured through /proc"),
    pytest.mark.slow,
]


with torch.device("meta"):
    NETWORK = timm.create_model("vit_tiny_patch16_224", embed_dim=8, num_heads=2, num_classes=3)


def read(path: Path) -> Any:
    """Say a problem as those do who have read a file."""
    try:
        return read_augreg(path, copy.deepcopy(NETWORK)) if path.suffix == ".npz" else read_state(path)
    except WeightsProblem as problem:
        raise UserError(f"The file {path} {problem}.") from None


@pytest.mark.parametrize("form", ["ZIP", "old"])
def test_state_dicts(form: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    state = {"model": {"a.weight": torch.randn(3, 4), "a.bias": torch.randn(3)}}
    torch.save(state, path, _use_new_zipfile_serialization=form == "ZIP")
    told(f"weights, torch's {form} format", lambda: read(path), [path])


def test_augreg(tmp_path: Path) -> None:
    state = {name: torch.randn(value.shape) for name, value in NETWORK.state_dict().items()}
    path = write_augreg(tmp_path / "file.npz", state, 2)
    told("weights, AugReg", lambda: read(path), [path])
