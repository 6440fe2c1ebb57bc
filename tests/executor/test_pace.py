"""How often the queue is looked at."""

from __future__ import annotations

import time

import pytest

from snakemake_executor_plugin_submitit.pace import LONGEST, SOONEST, Pace


@pytest.mark.parametrize(
    ("quiet", "answer_took", "pause"),
    [
        (0, 0, SOONEST),
        (5, 0, SOONEST),
        (100, 0, 10),
        (10_000, 0, 30),
        (0, 2, 20),  # a busy controller
        (10_000, 60, LONGEST),
    ],
)
def test_pause(monkeypatch: pytest.MonkeyPatch, quiet: float, answer_took: float, pause: float) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace = Pace(longest=30)
    now[0] = 50.0
    pace.changed()
    now[0] += quiet
    assert pace.pause(answer_took) == pause
