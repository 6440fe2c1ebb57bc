"""Fixtures every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT.parent / "shared" / "golden"


@pytest.fixture
def golden() -> Path:
    """The folder of numbers computed with the published reference implementations."""
    if not GOLDEN.is_dir():
        pytest.skip("the reference numbers (golden data) are not part of this checkout")
    return GOLDEN


@pytest.fixture(autouse=True)
def _single_thread() -> None:
    """Small tensors are slower on several threads, and bits depend on how a sum is split."""
    torch.set_num_threads(1)


SPECIAL = {"workflow", "slurm", "browser", "gpu", "network", "slow"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `unit` what bears no other marker, so that `pytest -m unit` runs just those."""
    for item in items:
        if not SPECIAL.intersection(marker.name for marker in item.iter_markers()):
            item.add_marker(pytest.mark.unit)
