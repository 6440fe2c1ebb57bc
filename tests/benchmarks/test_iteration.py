"""The benchmark of an iteration: what it measures, and that it measures nothing that is wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from gdd.adversary.discriminator import ProjectedDiscriminator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DIGITS = ["--setting", "digits", "--batch", "2", "--seconds", "0", "--device", "cpu"]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The benchmark, found as it finds itself when it is run as a script."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import iteration

    monkeypatch.setattr(iteration, "TURN", 0.0)
    yield iteration
    sys.modules.pop("iteration")


@pytest.mark.parametrize(("seconds", "rows"), [("0", 2), ("3600", 6)])
def test_digits(
    benchmark: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seconds: str,
    rows: int,
) -> None:
    clock = iter(range(0, 10**9, 600))  # everything begins, and then one round
    if seconds != "0":
        monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock) / 10)
    benchmark.main([*DIGITS[:5], seconds, *DIGITS[6:]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "float32, relative difference from float64: the release's order, ours"
    assert "bfloat16, relative difference from float64: the release's order, ours" in lines
    table = [line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")][1:]
    assert table[:2] == ["the release's order", "ours"]
    assert len(table) == rows
    assert lines[-rows].endswith("x1.00 (1.00 to 1.00) |")


def test_nothing_is_measured_where_the_orders_disagree(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = ProjectedDiscriminator.logits
    monkeypatch.setattr(ProjectedDiscriminator, "logits", lambda *args: [2 * x for x in logits(*args)])
    with pytest.raises(SystemExit, match="further from float64 in float32 than rounding explains"):
        benchmark.main(DIGITS)


def test_what_does_not_fit_is_left_out(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    fits: Any = benchmark.Contender(lambda: None, lambda: None, r1_alone=True)
    made = {benchmark.PLAIN: fits, "large": fits._replace(step=full), benchmark.OURS: fits}
    rounds, _ = benchmark.measure(iter(made.items()), 64, 16, torch.device("cpu"), 0.0)
    assert list(rounds) == [benchmark.PLAIN, benchmark.OURS]
    assert "large: out of memory" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="the release's order does not fit into this memory"):
        benchmark.measure(
            iter([(benchmark.PLAIN, fits._replace(step=full))]), 64, 16, torch.device("cpu"), 0.0
        )
