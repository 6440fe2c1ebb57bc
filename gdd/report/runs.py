"""The numbers of single runs, and the set of runs that a row of a table averages over."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from gdd.config.evaluation import METRICS
from gdd.errors import UserError
from gdd.experiments import Run

At = int | Literal["end", "best"]
Key = tuple[str, int | None]  # teacher and seed; what two rows have in common


@dataclass(frozen=True)
class RunNumbers:
    """All numbers of one run, so that nothing has to be computed again from the metrics files.

    The seed is None for a teacher that is judged itself. `values` has one number per column: means over
    blocks of latents of the last snapshot where the column is a metric. `sampling_std` has the standard
    deviations over those blocks. `best_rule` says in words how the best snapshot was chosen.
    """

    teacher: str
    seed: int | None
    id: str | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    sampling_std: Mapping[str, float] = field(default_factory=dict)
    final_images: int | None = None
    final_fid_blocks: tuple[float, ...] = ()
    best_images: int | None = None
    best_fid_blocks: tuple[float, ...] = ()
    best_rule: str | None = None

    @property
    def key(self) -> Key:
        """What pairs the run with one of another row."""
        return self.teacher, self.seed

    @property
    def blocks(self) -> int:
        """Number of blocks of latents the last snapshot was judged on."""
        return max(1, len(self.final_fid_blocks))


def run_numbers(
    metrics: Mapping[str, Any],
    teacher: str,
    run: Run | None = None,
    record: Mapping[str, Any] | None = None,
    at: At = "end",
) -> RunNumbers:
    """Gather the numbers of a run from its metrics and, for a student, the `record` in its run.json.

    `at` says which snapshot the metrics' columns are of.
    """
    final, best, record = metrics["final"], metrics.get("best") or {}, record or {}
    shown = snapshot_at(metrics, at)
    values, spreads = measures(shown)
    final_fid, best_fid = _fid_blocks(final), _fid_blocks(best)
    if blocks := _fid_blocks(shown):
        values["fid_minimum"] = min(blocks)
    if best_fid:
        values["best_fid"] = best_fid[0]
    # The best snapshot is chosen by its FID on block 0, which is therefore too low. The other blocks had
    # no part in the choice, and the last snapshot on the same blocks is what they compare with.
    for column, blocks in (("best_fid_fresh", best_fid[1:]), ("final_fid_fresh", final_fid[1:])):
        if blocks:
            values[column] = statistics.mean(blocks)
        if len(blocks) > 1:
            spreads[column] = statistics.stdev(blocks)
    facts = {
        "evaluations": metrics.get("evaluations"),
        "trainable": (record.get("parameters") or {}).get("trainable"),
        "images": record.get("images") if at == "end" else shown.get("images"),
        "seconds": record.get("seconds"),
    }
    values |= {key: float(value) for key, value in facts.items() if value is not None}
    return RunNumbers(
        teacher=teacher,
        seed=run.seed if run else None,
        id=run.id if run else None,
        values=values,
        sampling_std=spreads,
        final_images=final.get("images"),
        final_fid_blocks=final_fid,
        best_images=best.get("images"),
        best_fid_blocks=best_fid,
        best_rule=best.get("rule"),
    )


def snapshot_at(metrics: Mapping[str, Any], at: At) -> Mapping[str, Any]:
    """Return what a metrics file says of the last snapshot, the best, or the one at an image count.

    Raises:
        UserError: the snapshot was not judged on every block.
    """
    if at in ("end", metrics["final"].get("images")):
        return cast("Mapping[str, Any]", metrics["final"])
    found = metrics.get("best") if at == "best" else (metrics.get("also_at") or {}).get(str(at))
    if found is None:
        raise UserError(
            f"A run was not judged at {at} images; add the count to the setting's 'evaluation.also_at' and "
            "evaluate it again."
        )
    return cast("Mapping[str, Any]", found)


def measures(snapshot: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the means and the sampling spreads of a judged snapshot, without what was not measured."""
    stds = snapshot.get("sampling_std") or {}
    return _measured(snapshot["mean"]), _measured(stds)


def runs_in_words(keys: Sequence[Key]) -> str:
    """Write over what a training spread goes: `6 runs: 3 seeds × 2 teachers`, or `2 teachers`."""
    if all(seed is None for _, seed in keys):
        return _counted(len(keys), "teacher")
    return f"{_counted(len(keys), 'run')}: {design(keys)}"


def design(keys: Sequence[Key]) -> str:
    """Write which seeds and teachers runs come from: `3 seeds × 2 teachers`."""
    teachers = len({teacher for teacher, _ in keys})
    seeds = len({seed for _, seed in keys})
    if teachers == 1:
        return f"{_counted(seeds, 'seed')}, one teacher"
    crossed = len(keys) == seeds * teachers
    return f"{_counted(seeds, 'seed')} {'×' if crossed else 'and'} {_counted(teachers, 'teacher')}"


def numbers(values: Iterable[Any]) -> list[float]:
    """Leave out what was not measured: missing, null, or not finite."""
    return [float(value) for value in values if value is not None and math.isfinite(value)]


def _measured(found: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: value for key in METRICS if (value := next(iter(numbers([found.get(key)])), None)) is not None
    }


def _fid_blocks(snapshot: Mapping[str, Any]) -> tuple[float, ...]:
    return tuple(numbers(block.get("fid") for block in snapshot.get("blocks") or ()))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
