"""Two rows compared run by run: the same teacher and the same seed on both sides."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Literal

from gdd.report.runs import Key
from gdd.report.style import COLUMNS
from gdd.report.table import Line


@dataclass(frozen=True)
class Paired:
    """How the first row stands to the second over the (teacher, seed) pairs that both have.

    `difference` is the mean of first minus second. `standard_error` is that of this mean (None with one
    pair). `pooled_std` is the root of the mean of both rows' variances over those runs: how far apart
    two runs of one row lie, which the difference has to exceed twice to count.
    """

    keys: tuple[Key, ...]
    worse: int  # pairs in which the first is worse
    better: int
    difference: float
    standard_error: float | None
    pooled_std: float | None

    @property
    def clear(self) -> bool:
        """Say whether the difference exceeds twice the pooled standard deviation; never so without one."""
        return self.pooled_std is not None and abs(self.difference) > 2 * self.pooled_std

    @property
    def verdict(self) -> Literal["worse", "better", "open"]:
        """Say how the first is if all pairs agree and the difference is clear; else it stays open."""
        if self.clear and self.worse == len(self.keys):
            return "worse"
        return "better" if self.clear and self.better == len(self.keys) else "open"


def compare_runs(first: Line, second: Line, column: str) -> Paired | None:
    """Compare two rows in a column; None if they have no (teacher, seed) in common."""
    ours = {run.key: run.values[column] for run in first.runs if column in run.values}
    theirs = {run.key: run.values[column] for run in second.runs if column in run.values}
    keys = tuple(key for key in ours if key in theirs)
    if not keys:
        return None
    differences = [ours[key] - theirs[key] for key in keys]
    sign = 1 if COLUMNS[column].better == "low" else -1
    several = len(keys) > 1
    variances = [statistics.variance(row[key] for key in keys) for row in (ours, theirs) if several]
    return Paired(
        keys=keys,
        worse=sum(sign * difference > 0 for difference in differences),
        better=sum(sign * difference < 0 for difference in differences),
        difference=statistics.mean(differences),
        standard_error=statistics.stdev(differences) / math.sqrt(len(keys)) if several else None,
        pooled_std=math.sqrt(statistics.mean(variances)) if several else None,
    )
