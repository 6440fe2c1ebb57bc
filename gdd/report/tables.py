"""From metrics files to a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gdd.config.recipe import Recipe
from gdd.experiments import Experiments, TableRow
from gdd.report.inputs import read_input, read_run
from gdd.report.style import COLUMNS
from gdd.report.table import Cell, Kind, Line, Table
from gdd.report.table_files import write_table

__all__ = ["build_table", "write_table"]

MEASURES = (
    "fid",
    "precision",
    "recall",
    "density",
    "coverage",
    "pixel_fid",
    "pixel_precision",
    "pixel_recall",
    "nearest",
)
FLOOR_TITLE = "Real against real (floor)"


def build_table(experiments: Experiments, name: str, results: Path) -> Table:
    """Gather a table's numbers from the final snapshots of its runs.

    Raises:
        UserError: an input file is missing (names it and the target that makes it), or belongs to another
            recipe than the configuration's.
    """
    rows = experiments.rows(name)
    ablation = experiments.config.ablations[name]
    lines: list[Line] = []
    floors: dict[str, Line] = {}
    definitions: dict[str, str] = {}
    samples = None
    for row in rows:
        metrics = [read_input(results, path, name) for path in row.metrics()]
        lines.append(_line(row, metrics, results, name))
        for found in metrics:
            definitions |= found.get("definitions") or {}
            samples = samples or (found.get("provenance") or {}).get("samples")
        if row.setting not in floors and metrics[0].get("floor"):
            cells = _measures([{"mean": metrics[0]["floor"]}])
            floors[row.setting] = Line(FLOOR_TITLE, row.setting, "floor", cells)
    return Table(
        name=name,
        title=ablation.title,
        caption=ablation.caption,
        columns=ablation.columns,
        lines=tuple(lines),
        floors=tuple(floors.values()),
        settings={name: experiments.config.settings[name].title for name in ablation.setting_names()},
        definitions=definitions,
        samples=samples,
    )


def _line(row: TableRow, metrics: list[dict[str, Any]], results: Path, target: str) -> Line:
    snapshots = [found["final"] for found in metrics]
    cells = _measures(snapshots)
    cells |= _cells({"evaluations": [found.get("evaluations") for found in metrics]})
    blocks = max(_blocks(snapshot) for snapshot in snapshots)
    if row.teacher_steps is not None:
        return Line(row.title, row.setting, "teacher", cells, blocks=blocks, teacher_steps=row.teacher_steps)
    runs = [read_run(results, run, target) for run in row.runs]
    parameters = runs[0].get("parameters") or {}
    cells |= _cells(
        {
            "trainable": [parameters.get("trainable")],
            "images": [run.get("images") for run in runs],
            "seconds": [run.get("seconds") for run in runs],
        }
    )
    return Line(
        title=row.title,
        setting=row.setting,
        kind=_kind(row.runs[0].recipe),
        cells=cells,
        run=row.runs[0].id,
        method=row.method,
        seeds=tuple(run.seed for run in row.runs),
        blocks=blocks,
        parameters=parameters,
        recipe=row.runs[0].recipe.model_dump(mode="json"),
    )


def _kind(recipe: Recipe) -> Kind:
    if recipe.objective.distributional and recipe.objective.instance:
        return "both"
    return "distributional" if recipe.objective.distributional else "instance"


def _blocks(snapshot: Mapping[str, Any]) -> int:
    return max(1, len(snapshot.get("blocks") or ()))


def _measures(snapshots: Sequence[Mapping[str, Any]]) -> dict[str, Cell]:
    """Return the cells of all metrics from one evaluated snapshot per seed."""
    cells = {}
    for measure in MEASURES:
        means = _numbers(snapshot["mean"].get(measure) for snapshot in snapshots)
        stds = _numbers((snapshot.get("sampling_std") or {}).get(measure) for snapshot in snapshots)
        if means:
            cells[measure] = Cell(
                mean=statistics.mean(means),
                training_std=statistics.stdev(means) if len(means) > 1 else None,
                sampling_std=statistics.mean(stds) if stds else None,
                seeds=len(means),
                blocks=max(map(_blocks, snapshots)),
            )
    return cells


def _cells(columns: Mapping[str, Sequence[Any]]) -> dict[str, Cell]:
    """Return the cells of what has one value a run."""
    cells = {}
    for column, given in columns.items():
        values = _numbers(given)
        if values:
            std = statistics.stdev(values) if len(values) > 1 and COLUMNS[column].spread else None
            cells[column] = Cell(statistics.mean(values), std, seeds=len(values))
    return cells


def _numbers(values: Iterable[Any]) -> list[float]:
    """Leave out what was not measured: missing, null, or not finite."""
    return [float(value) for value in values if value is not None and math.isfinite(value)]
