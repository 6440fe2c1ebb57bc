"""From metrics files to a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gdd.config.recipe import Recipe
from gdd.config.records import Reported
from gdd.experiments import Experiments, TableRow
from gdd.report.inputs import read_input, read_run
from gdd.report.paired import compare_runs
from gdd.report.runs import RunNumbers, measures, run_numbers
from gdd.report.style import COLUMNS
from gdd.report.table import Cell, Kind, Line, Table
from gdd.report.table_files import write_table

__all__ = ["build_table", "write_table"]

REPORTED = ("reported_fid", "reported_recall", "reported_clip_fid")
FLOOR_TITLE = "Real against real (floor)"


def build_table(experiments: Experiments, name: str, results: Path) -> Table:
    """Gather a table's numbers from the snapshots of its runs.

    Raises:
        UserError: an input file is missing (names it and the target that makes it), or belongs to another
            recipe than the configuration's.
    """
    rows = experiments.rows(name)
    ablation = experiments.config.ablations[name]
    lines: list[Line] = []
    floors: dict[str, Line] = {}
    meanings: dict[str, dict[str, list[str]]] = {}
    samples = None
    reported = experiments.config.reported
    for row in rows:
        metrics = [read_input(results, path, name) for path in row.metrics()]
        line = _line(row, metrics, results, name)
        lines.append(_with_reported(line, row, reported))
        for found in metrics:
            for column, text in (found.get("definitions") or {}).items():
                meanings.setdefault(column, {}).setdefault(text, []).append(row.setting)
            samples = samples or (found.get("provenance") or {}).get("samples")
        if row.setting not in floors and metrics[0].get("floor"):
            values, _ = measures({"mean": metrics[0]["floor"]})
            cells = {column: Cell(value) for column, value in values.items()}
            floors[row.setting] = Line(FLOOR_TITLE, row.setting, "floor", cells)
    titles = {name: experiments.config.settings[name].title for name in ablation.setting_names()}
    definitions = {column: _in_words(found, titles) for column, found in meanings.items()}
    told = {of.source: None for row in rows for of in reported_of(row, reported)}
    if told:
        for column in REPORTED:
            definitions[column] = f"{COLUMNS[column].meaning} Sources: {'; '.join(told)}."
    derived = {column: COLUMNS[column].meaning for column in ablation.columns if COLUMNS[column].meaning}
    return Table(
        name=name,
        title=ablation.title,
        caption=ablation.caption,
        columns=ablation.columns,
        lines=tuple(_with_differences(lines)),
        floors=tuple(floors.values()),
        settings=titles,
        definitions=derived | definitions,
        samples=samples,
    )


def _in_words(meanings: Mapping[str, Sequence[str]], titles: Mapping[str, str]) -> str:
    """Write what a column means; where that differs between settings, say it of each."""
    if len(meanings) == 1:
        return next(iter(meanings))
    parts = []
    for text, settings in meanings.items():
        parts.append(f"{', '.join(titles[name] for name in dict.fromkeys(settings))}: {text}")
    return "; ".join(parts)


def _line(row: TableRow, metrics: list[dict[str, Any]], results: Path, target: str) -> Line:
    if row.teacher_steps is not None:
        judged = zip(metrics, row.teachers, strict=True)
        runs = tuple(run_numbers(found, teacher) for found, teacher in judged)
        return Line(
            title=row.title,
            setting=row.setting,
            kind="teacher",
            cells=_cells(runs),
            runs=runs,
            blocks=max(run.blocks for run in runs),
            teacher_steps=row.teacher_steps,
        )
    if row.external is not None:
        (judged_once,) = metrics
        run = run_numbers(judged_once, row.external)
        return Line(
            title=row.title,
            setting=row.setting,
            kind="external",
            cells=_cells((run,)),
            blocks=run.blocks,
        )
    records = [read_run(results, run, target) for run in row.runs]
    trained = zip(metrics, row.runs, records, strict=True)
    runs = tuple(
        run_numbers(found, run.recipe.teacher, run, record, row.at) for found, run, record in trained
    )
    return Line(
        title=row.title,
        setting=row.setting,
        kind=_kind(row.runs[0].recipe),
        cells=_cells(runs),
        run=row.runs[0].id,
        method=row.method,
        runs=runs,
        blocks=max(run.blocks for run in runs),
        parameters=records[0].get("parameters") or {},
        recipe=row.runs[0].recipe.model_dump(mode="json"),
        at=row.at,
    )


def _with_reported(line: Line, row: TableRow, reported: Sequence[Reported]) -> Line:
    """Set what others report of the same row beside our number."""
    found = reported_of(row, reported)
    if not found:
        return line
    numbers = {"fid": found[0].fid, "recall": found[0].recall, "clip_fid": found[0].clip_fid}
    cells = {f"reported_{key}": Cell(value) for key, value in numbers.items() if value is not None}
    return replace(line, cells={**line.cells, **cells})


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


def _kind(recipe: Recipe) -> Kind:
    if recipe.objective.distributional and recipe.objective.instance:
        return "both"
    return "distributional" if recipe.objective.distributional else "instance"


def _cells(runs: Sequence[RunNumbers]) -> dict[str, Cell]:
    """Average every column over the runs that have it, and keep the two spreads apart."""
    cells = {}
    for column in dict.fromkeys(column for run in runs for column in run.values):
        values = [run.values[column] for run in runs if column in run.values]
        stds = [run.sampling_std[column] for run in runs if column in run.sampling_std]
        shown = column not in COLUMNS or COLUMNS[column].spread
        cells[column] = Cell(
            mean=statistics.mean(values),
            training_std=statistics.stdev(values) if len(values) > 1 and shown else None,
            sampling_std=math.sqrt(statistics.mean(std**2 for std in stds)) if stds else None,
            runs=len(values),
        )
    return cells


def _with_differences(lines: Sequence[Line]) -> list[Line]:
    """Add to every student the change of its mean FID from the student above it in its setting."""
    above: dict[str, Line] = {}
    result = []
    for line in lines:
        if line.trained:
            if line.setting in above and (cell := _difference(line, above[line.setting])) is not None:
                line = replace(line, cells={**line.cells, "fid_difference": cell})  # noqa: PLW2901
            above[line.setting] = line
        result.append(line)
    return result


def _difference(line: Line, above: Line) -> Cell | None:
    first, second = line.value("fid"), above.value("fid")
    if first is None or second is None:
        return None
    found = compare_runs(line, above, "fid")
    if found is None or len(found.keys) < 2:
        return Cell(first - second)
    return Cell(first - second, standard_error=found.standard_error, runs=len(found.keys))
