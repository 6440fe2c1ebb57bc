"""How often the queue is looked at, and how times are told."""

from __future__ import annotations

import pytest

from snakemake_executor_plugin_submitit.clusters import LONGEST, SOONEST, Cluster
from snakemake_executor_plugin_submitit.report import duration
from snakemake_executor_plugin_submitit.settings import ExecutorSettings


@pytest.mark.parametrize(
    ("quiet", "answer_took", "expected"),
    [
        (0, 0, SOONEST),
        (5, 0, SOONEST),
        (100, 0, 10),
        (10_000, 0, 30),
        (0, 2, 20),  # a busy controller
        (10_000, 60, LONGEST),
    ],
)
def test_pause(quiet: float, answer_took: float, expected: float) -> None:
    cluster = Cluster(ExecutorSettings())
    cluster.seconds = answer_took
    assert cluster.pause(quiet, 30) == expected


def test_durations() -> None:
    assert [duration(seconds) for seconds in (3, 100, 600, 7260)] == ["3 s", "100 s", "10 min", "2 h 1 min"]
