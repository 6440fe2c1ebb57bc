"""From the numbers of single evaluations to the cells of a table, with both spreads kept apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pandas as pd

from gdd.config.metrics import columns
from gdd.config.tables import Claim, Reported
from gdd.experiments import Experiments, TableRow
from gdd.report.numbers import Evaluated, Key, long_frame, paired, read_rows, run_columns

REPORTED = {"reported_fid": "fid", "reported_recall": "recall", "reported_clip_fid": "clip_fid"}


@dataclass(frozen=True)
class Cell:
    """One number of a table; what is not known of it is NaN.

    `training_std` is the sample standard deviation of the runs' means over all runs of the row, seeds and
    teachers. `sampling_std` is the standard deviation over blocks of latents within a run, pooled over runs
    as the root of the mean variance. They answer different questions and are never combined.
    `standard_error` is that of a difference between two rows.
    """

    mean: float
    training_std: float = math.nan
    sampling_std: float = math.nan
    standard_error: float = math.nan
    runs: int = 1  # or teachers, or pairs of runs


def without_nan(values: dict[str, Any]) -> dict[str, Any]:
    """Return values for JSON, which has no NaN."""
    return {key: None if isinstance(of, float) and math.isnan(of) else of for key, of in values.items()}


@dataclass(frozen=True)
class Line:
    """A row: a student over its runs, a teacher at some number of steps, others' work, or real images."""

    number: int  # counts the rows; `line` in a table's frames
    kind: str  # teacher, external, floor, or of a student: distributional, instance, both
    evaluated: Sequence[Evaluated]

    @property
    def row(self) -> TableRow:
        return self.evaluated[0].row

    @property
    def title(self) -> str:
        return self.row.title

    @property
    def trained(self) -> bool:
        """Whether it is a student, trained here."""
        return bool(self.row.runs)

    @property
    def keys(self) -> list[Key]:
        """Teacher and seed of every run or teacher."""
        return [of.key for of in self.evaluated if of.teacher]

    @property
    def blocks(self) -> int:
        """Number of blocks of latents that the last snapshot was evaluated on."""
        return max(len(of.metrics["final"].get("blocks") or ()) for of in self.evaluated) or 1

    @property
    def parameters(self) -> dict[str, int]:
        """How many parameters the first run has, under total, trainable and frozen."""
        return self.evaluated[0].record.get("parameters") or {}


@dataclass(frozen=True)
class Table:
    """All that is known about a table; files, figures, claims and the page are made from it."""

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    settings: dict[str, str]  # name -> title
    lines: list[Line]  # setting by setting
    numbers: pd.DataFrame  # `long_frame`
    runs: pd.DataFrame  # `run_columns`
    cells: dict[tuple[int, str], Cell]  # by line and column
    definitions: dict[str, str]
    claims: tuple[Claim, ...]
    notes: tuple[str, ...]
    samples: int | None  # images in a block of latents

    def cell(self, line: Line, column: str) -> Cell | None:
        """Return a cell, None where nothing is known."""
        return self.cells.get((line.number, column))

    def students(self) -> list[Line]:
        """Return the lines that were trained here."""
        return [line for line in self.lines if line.trained]


def build_table(experiments: Experiments, name: str) -> Table:
    """Gather a table's numbers from the snapshots of its runs.

    Raises:
        UserError: an input file is missing (names it and the target that makes it), or belongs to another
            recipe than the configuration's.
    """
    config, ablation = experiments.config, experiments.config.ablations[name]
    settings = {setting: config.settings[setting].title for setting in ablation.setting_names()}
    rows = read_rows(experiments, name)
    lines = [Line(number, _kind(row[0].row), row) for number, row in enumerate(rows)]
    evaluated = [of for row in rows for of in row]
    numbers = long_frame(name, rows)
    runs = run_columns(numbers)
    cells = _over_runs(runs) | _reported_cells(lines, config.reported)
    samples = (of.metrics.get("provenance", {}).get("samples") for of in evaluated)
    return Table(
        name=name,
        title=ablation.title,
        caption=ablation.caption,
        columns=ablation.columns,
        settings=settings,
        lines=lines,
        numbers=numbers,
        runs=runs,
        cells=cells | _differences(lines, runs, cells),
        definitions=_definitions(evaluated, ablation.columns, config.reported, settings),
        claims=ablation.claims,
        notes=tuple(dict.fromkeys(note for setting in settings for note in config.settings[setting].notes)),
        samples=next(filter(None, samples), None),
    )


def _kind(row: TableRow) -> str:
    if row.runs:
        objective = row.runs[0].recipe.objective
        if objective.distributional and objective.instance:
            return "both"
        return "distributional" if objective.distributional else "instance"
    if row.teacher_steps is not None:
        return "teacher"
    return "floor" if row.external is None else "external"


def _over_runs(runs: pd.DataFrame) -> dict[tuple[int, str], Cell]:
    """Average every column over the evaluations of a line that have it."""
    known = columns()
    by_cell = runs.assign(variance=runs["sampling_std"] ** 2).groupby(["line", "column"])
    cells = pd.DataFrame(
        {
            "mean": by_cell["value"].mean(),
            "training_std": by_cell["value"].std(),
            "sampling_std": by_cell["variance"].mean() ** 0.5,
            "runs": by_cell["value"].count(),
        }
    )
    return {
        (line, column): Cell(mean, std if known[column].spread else math.nan, sampling_std, runs=count)
        for (line, column), mean, std, sampling_std, count in cells.itertuples(name=None)
    }


def _reported_cells(lines: Sequence[Line], reported: Sequence[Reported]) -> dict[tuple[int, str], Cell]:
    return {
        (line.number, column): Cell(value)
        for line in lines
        for of in reported_of(line.row, reported)[:1]
        for column, key in REPORTED.items()
        if (value := getattr(of, key)) is not None
    }


def reported_of(row: TableRow, reported: Sequence[Reported]) -> list[Reported]:
    """Return what others report of a row: a method's best snapshot, a teacher's steps, or their own work."""
    if row.changes:
        return []
    return [
        of
        for of in reported
        if of.setting == row.setting
        and (of.method, of.external) == (row.method, row.external)
        and (of.teacher_steps == row.teacher_steps if row.method is None else row.at == "best")
    ]


def _differences(
    lines: Sequence[Line], runs: pd.DataFrame, cells: dict[tuple[int, str], Cell]
) -> dict[tuple[int, str], Cell]:
    """Return for every student the change of its mean FID from the student above it in its setting."""
    found = {}
    for above, line in pairwise(line for line in lines if line.trained):
        fids = [cells.get((of.number, "fid")) for of in (above, line)]
        if above.row.setting == line.row.setting and fids[0] and fids[1]:
            pairs = paired(runs, line.number, above.number, "fid")
            error: Any = (pairs["first"] - pairs["second"]).sem()  # NaN with one pair
            found[line.number, "fid_difference"] = Cell(
                fids[1].mean - fids[0].mean,
                standard_error=float(error),
                runs=max(len(pairs), 1),
            )
    return found


def _definitions(
    evaluated: Sequence[Evaluated],
    shown: Sequence[str],
    reported: Sequence[Reported],
    settings: dict[str, str],
) -> dict[str, str]:
    """Return what every column means; where that differs between settings, it says so of each."""
    known = columns()
    definitions = {column: known[column].meaning for column in shown if known[column].meaning}
    meanings = pd.DataFrame(
        [
            (column, text, settings[of.row.setting])
            for of in evaluated
            for column, text in (of.metrics.get("definitions") or {}).items()
        ],
        columns=["column", "text", "setting"],
    ).drop_duplicates()
    for column, found in meanings.groupby("column", sort=False):
        by_text = found.groupby("text", sort=False)["setting"].agg(", ".join)
        several = (f"{titles}: {text}" for text, titles in by_text.items())
        definitions[str(column)] = str(by_text.index[0]) if len(by_text) == 1 else "; ".join(several)
    sources = dict.fromkeys(one.source for of in evaluated for one in reported_of(of.row, reported))
    if sources:
        for column in REPORTED:
            definitions[column] = f"{known[column].meaning} Sources: {'; '.join(sources)}."
    return definitions
