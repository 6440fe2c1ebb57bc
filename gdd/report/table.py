"""From metrics.json and run.json to the cells of a table, with both spreads kept apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gdd.config.metrics import METRICS, columns
from gdd.config.records import Setting
from gdd.config.tables import Ablation, Reported
from gdd.errors import UserError
from gdd.experiments import Experiments, TableRow
from gdd.report.evaluated import Evaluated, Key, Reader

REPORTED = {"reported_fid": "fid", "reported_recall": "recall", "reported_clip_fid": "clip_fid"}
ENTRY = ["line", "entry"]  # a row of the table, and one of the evaluations it averages over


@dataclass(frozen=True)
class Line:
    """A row: a student over its runs, a teacher at some number of steps, others' work, or real images."""

    number: int  # counts the rows; `line` in a table's frames
    row: TableRow
    evaluated: Sequence[Evaluated]
    reported: Reported | None  # what others report of it
    missing: Sequence[Path] = ()  # files of it that are not there; then nothing of it is shown

    @property
    def command(self) -> str:
        """What makes the files that are missing."""
        return f"snakemake --cores 2 {' '.join(map(str, self.missing))}"

    @property
    def trained(self) -> bool:
        """Whether it is a student, trained here."""
        return bool(self.row.runs)

    @property
    def kind(self) -> str:
        """Of a student `distributional`, `instance` or `both`; `teacher`, `external` or `floor`."""
        if self.row.runs:
            objective = self.row.runs[0].recipe.objective
            if objective.distributional:
                return "both" if objective.instance else "distributional"
            return "instance"
        if self.row.teacher_steps is not None:
            return "teacher"
        return "floor" if self.row.external is None else "external"

    @property
    def keys(self) -> list[Key]:
        """Teacher and seed of every run or teacher."""
        return [of.key for of in self.evaluated if of.teacher]

    @property
    def blocks(self) -> int:
        """Number of blocks of latents that the last snapshot was evaluated on."""
        return max((len(of.metrics["final"].get("blocks") or ()) for of in self.evaluated), default=0) or 1

    @property
    def parameters(self) -> dict[str, int]:
        """How many parameters the first run has, under total, trainable and frozen."""
        return (self.evaluated[0].record.get("parameters") or {}) if self.evaluated else {}

    def shown(self, of: Evaluated) -> tuple[str, Mapping[str, Any]]:
        """Return the snapshot that the row shows, and its name: `end`, `best` or an image count.

        Raises:
            UserError: the snapshot was not evaluated on every block.
        """
        final, at = of.metrics["final"], self.row.at
        if at in ("end", final.get("images")):
            return "end", final
        found = of.metrics.get("best") if at == "best" else (of.metrics.get("also_at") or {}).get(str(at))
        if found is None:
            raise UserError(
                f"A run of '{self.row.title}' was not evaluated at {at} images; add the count to "
                "'evaluation.also_at' of its setting and evaluate it again."
            )
        return str(at), found


@dataclass(frozen=True)
class Cell:
    """One number of a table; what is not known of it is NaN.

    The two spreads answer different questions and are never combined.
    """

    mean: float
    training_std: float = math.nan  # of the runs' means, over all runs of the row, seeds and teachers
    sampling_std: float = math.nan  # over blocks of latents within a run: the root of the mean variance
    standard_error: float = math.nan  # of a difference between two rows
    runs: int = 1  # or teachers, or pairs of runs


@dataclass(frozen=True)
class Table:
    """All that is known about a table, from which files, figures, claims and the page are made."""

    name: str
    ablation: Ablation
    settings: dict[str, Setting]
    lines: list[Line]  # setting by setting, real images at the end of each
    values: pd.DataFrame  # see `_long`
    runs: pd.DataFrame  # see `_by_run`
    cells: dict[tuple[int, str], Cell]  # by line and column
    elsewhere: Sequence[Reported]  # what is reported of others' work that no row shows

    def cell(self, line: Line, column: str) -> Cell | None:
        """Return a cell, None where nothing is known."""
        return self.cells.get((line.number, column))

    def students(self) -> list[Line]:
        return [line for line in self.lines if line.trained]


def build_table(experiments: Experiments, name: str) -> Table:
    """Gather the values of a table; a row whose files are not all there is known to be missing.

    Raises:
        UserError: every row is missing, or a file is not of what it should be of.
    """
    config, ablation = experiments.config, experiments.config.ablations[name]
    settings = {setting: config.settings[setting] for setting in ablation.setting_names()}
    elsewhere = [of for of in config.reported if of.work and of.setting in settings]
    lines: list[Line] = []
    reader = Reader(experiments)
    for setting in settings:
        rows = [(row, reader.missing(row)) for row in experiments.rows(name) if row.setting == setting]
        found = [(row, [] if missing else reader.read(row), missing) for row, missing in rows]
        if floor := next(filter(None, (of.metrics["floor"] for _, each, _ in found for of in each)), None):
            real = TableRow("Real against real (floor)", setting, None)
            found.append((real, [Evaluated({"final": {"mean": floor}})], []))
        for row, evaluated, missing in found:
            lines.append(Line(len(lines), row, evaluated, _reported(row, config.reported), missing))
    if all(line.missing for line in lines):
        first = lines[0].missing[0]
        raise UserError(f"{first} does not exist, nor any row of '{name}'; run `snakemake --cores 2 {name}`.")
    values = _long(lines)
    runs = _by_run(values)
    cells = _over_runs(runs)
    cells |= _differences(lines, runs, cells)
    for line in lines:
        known = {column: getattr(line.reported, key, None) for column, key in REPORTED.items()}
        cells |= {(line.number, column): Cell(value) for column, value in known.items() if value is not None}
    return Table(name, ablation, settings, lines, values, runs, cells, elsewhere)


def require(path: Path, target: str) -> Path:
    """Return the path of a file, or raise a UserError with the Snakemake target that makes it."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; make it with `snakemake --cores 2 {target}`.")
    return path


def _long(lines: Sequence[Line]) -> pd.DataFrame:
    """Return every value of a table, one a row, without those that are missing or not finite.

    Columns: line, entry, teacher, seed, shown (whether the line shows this snapshot), snapshot (`end`, `best`
    or an image count), block of latents (missing for the mean over blocks and for what has no blocks),
    metric, value, and for means over blocks their sampling standard deviation.
    """
    frame = pd.DataFrame(
        [
            (line.number, entry, *of.key, snapshot == line.shown(of)[0], snapshot, *value)
            for line in lines
            for entry, of in enumerate(line.evaluated)
            for snapshot, *value in _values(line, of)
        ],
        columns=[*ENTRY, "teacher", "seed", "shown", "snapshot", "block", "metric", "value", "sampling_std"],
    )
    types: Any = {"seed": "Int64", "block": "Int64", "value": float, "sampling_std": float}
    return frame.astype(types).loc[lambda of: np.isfinite(of["value"])]


def _values(line: Line, of: Evaluated) -> Iterator[tuple[str, int | None, str, float | None, float | None]]:
    """Yield the values of one evaluation: snapshot, block, metric, value, sampling_std."""
    found = of.metrics
    snapshots = {"end": found["final"], "best": found.get("best"), **(found.get("also_at") or {})}
    for snapshot, content in snapshots.items():
        if content:
            stds = content.get("sampling_std") or {}
            for metric in METRICS:
                yield snapshot, None, metric, content["mean"].get(metric), stds.get(metric)
                for block, values in enumerate(content.get("blocks") or ()):
                    yield snapshot, block, metric, values.get(metric), None
    for point in found.get("curve") or ():
        if (images := str(point["images"])) not in snapshots:
            for metric in point.keys() & METRICS.keys():
                yield images, 0, metric, point[metric], None
    shown, content = line.shown(of)
    facts = {
        "evaluations": found.get("evaluations"),
        "trainable": (of.record.get("parameters") or {}).get("trainable"),
        "images": of.record.get("images") if shown == "end" else content.get("images"),
        "seconds": of.record.get("seconds"),
    }
    for column, value in facts.items():
        yield shown, None, column, value, None


def _by_run(values: pd.DataFrame) -> pd.DataFrame:
    """Return one value per evaluation and column, with its standard deviation over blocks of latents."""
    shown = values[values["shown"] & values["block"].isna()].rename(columns={"metric": "column"})
    fid = values[(values["metric"] == "fid") & values["block"].notna()]
    best, end = (fid[fid["snapshot"] == snapshot] for snapshot in ("best", "end"))
    # The best snapshot is chosen by its FID on block 0, which is therefore too low. The other blocks had
    # no part in the choice, and the last snapshot on the same blocks is what they compare with.
    parts = [
        shown[[*ENTRY, "column", "value", "sampling_std"]],
        _over_blocks(fid[fid["shown"]], "fid_minimum", "min"),
        _over_blocks(best[best["block"] == 0], "best_fid", "min"),
        _over_blocks(best[best["block"] > 0], "best_fid_fresh", "mean"),
        _over_blocks(end[end["block"] > 0], "final_fid_fresh", "mean"),
    ]
    keys = values[[*ENTRY, "teacher", "seed"]].drop_duplicates()
    return pd.concat([part for part in parts if len(part)]).merge(keys, on=ENTRY)


def _over_blocks(blocks: pd.DataFrame, column: str, how: str) -> pd.DataFrame:
    values = blocks.groupby(ENTRY)["value"]
    std = values.std() if how == "mean" else np.nan
    return pd.DataFrame({"column": column, "value": values.agg(how), "sampling_std": std}).reset_index()


def _over_runs(runs: pd.DataFrame) -> dict[tuple[int, str], Cell]:
    """Average every column over the evaluations of a line that have it."""
    known = columns()
    by_cell = runs.assign(variance=runs["sampling_std"] ** 2).groupby(["line", "column"])
    cells = by_cell["value"].agg(["mean", "std", "count"])
    cells["sampling_std"] = by_cell["variance"].mean() ** 0.5
    return {
        (line, column): Cell(mean, std if known[column].spread else math.nan, sampling_std, runs=count)
        for (line, column), mean, std, count, sampling_std in cells.itertuples(name=None)
    }


def paired(runs: pd.DataFrame, first: Line, second: Line, column: str) -> pd.DataFrame:
    """Return the values of two rows in pairs of equal teacher and seed, as `value_first` and `value_second`.

    A teacher itself has no seed and pairs with every run from it; what others published has neither, and
    pairs with all. `entry_first` and `entry_second` tell which runs they are of.
    """
    inside = runs[runs["column"] == column]
    left, right = (inside[inside["line"] == line.number] for line in (first, second))
    on = [key for key in ("teacher", "seed") if left[key].notna().all() and right[key].notna().all()]
    how: Any = {"on": on} if on else {"how": "cross"}
    return left.merge(right, **how, suffixes=("_first", "_second"))


def _differences(
    lines: Sequence[Line], runs: pd.DataFrame, cells: Mapping[tuple[int, str], Cell]
) -> dict[tuple[int, str], Cell]:
    """Return for every student the change of its mean FID from the student above it in its setting."""
    found = {}
    for above, line in pairwise(line for line in lines if line.trained):
        before, after = (cells.get((of.number, "fid")) for of in (above, line))
        if above.row.setting == line.row.setting and before and after:
            pairs = paired(runs, line, above, "fid")
            error: Any = (pairs["value_first"] - pairs["value_second"]).sem()  # NaN with one pair
            cell = Cell(after.mean - before.mean, standard_error=float(error), runs=max(len(pairs), 1))
            found[line.number, "fid_difference"] = cell
    return found


def _reported(row: TableRow, reported: Sequence[Reported]) -> Reported | None:
    """Return what others report of a row: a method's best snapshot, a teacher's steps, or their own work."""
    for of in reported if not row.changes else ():
        same = (of.setting, of.method, of.external, of.work) == (row.setting, row.method, row.external, None)
        if same and (of.teacher_steps == row.teacher_steps if row.method is None else row.at == "best"):
            return of
    return None
