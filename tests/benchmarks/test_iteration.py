"""The benchmark of an iteration: its two orders of operations agree, and it measures both."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DIGITS = ["--setting", "digits", "--batch", "2", "--seconds", "0", "--device", "cpu"]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The benchmark and what stands beside it, found as it finds it when it is run as a script."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import iteration

    monkeypatch.setattr(iteration, "TURN", 0.0)
    yield iteration
    for name in ("iteration", "plain_iteration"):
        sys.modules.pop(name)


def test_digits(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(DIGITS)
    lines = capsys.readouterr().out.splitlines()
    assert "  R1's gradient: " in lines[5]
    assert lines[8].startswith("round 1: plain eager x1.00, ours x")
    assert [line.split(" | ")[0] for line in lines[-2:]] == ["| plain eager", "| ours"]


def test_nothing_is_measured_where_the_orders_disagree(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["plain_iteration"], "_upsampled", torch.nn.Upsample(scale_factor=2))
    with pytest.raises(SystemExit, match="disagree in the generator's loss"):
        benchmark.main(DIGITS)
