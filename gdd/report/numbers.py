"""From metrics.json and run.json to one long table of numbers, which all tables and figures start from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gdd.config.metrics import METRICS
from gdd.errors import UserError
from gdd.experiments import Experiments, Run, TableRow
from gdd.files import read_json

Key = tuple[str | None, int | None]  # teacher and seed
ENTRY = ["line", "entry"]  # a row of the table, and one of the evaluations it averages over
NUMBER = ["snapshot", "block", "metric", "value", "sampling_std"]


@dataclass(frozen=True)
class Evaluated:
    """One evaluation in a row: of a run, of a teacher, or of what others published."""

    row: TableRow
    metrics: Mapping[str, Any]  # of metrics.json
    teacher: str | None = None
    run: Run | None = None
    record: Mapping[str, Any] = field(default_factory=dict)  # of run.json

    @property
    def key(self) -> Key:
        """Teacher and seed: what pairs it with one of another row."""
        return self.teacher, self.run.seed if self.run else None

    def shown(self) -> tuple[str, Mapping[str, Any]]:
        """Return the snapshot that the row shows, and its name: `end`, `best` or an image count.

        Raises:
            UserError: the snapshot was not evaluated on every block.
        """
        final, at = self.metrics["final"], self.row.at
        if at in ("end", final.get("images")):
            return "end", final
        found = self.metrics.get("best") if at == "best" else (self.metrics.get("also_at") or {}).get(str(at))
        if found is None:
            raise UserError(
                f"A run of '{self.row.title}' was not evaluated at {at} images; add the count to "
                "'evaluation.also_at' of its setting and evaluate it again."
            )
        return str(at), found


def require(path: Path, target: str) -> Path:
    """Return `path`.

    Raises:
        UserError: the file does not exist; names the Snakemake target that makes it.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; make it with `snakemake --cores 2 {target}`.")
    return path


def read_object(path: Path, target: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the file is missing (names the target that makes it) or no JSON.
    """
    data: dict[str, Any] = read_json(require(path, target))
    return data


def read_run(run: Run, target: str) -> dict[str, Any]:
    """Read the `run.json` of a run.

    Raises:
        UserError: it is missing, or was trained with another recipe than the configuration's.
    """
    path = run.folder / "run.json"
    data = read_object(path, target)
    if data.get("recipe") != run.recipe.model_dump(mode="json"):
        raise UserError(
            f"{path} was trained with another recipe than the configuration now gives; "
            f"delete it and run `snakemake --cores 2 {target}`."
        )
    return data


def read_rows(experiments: Experiments, name: str) -> list[list[Evaluated]]:
    """Read what the rows of the table `name` are made of: for each, its runs, its teachers, or one of others.

    The last row of each setting is its floor: real images against real ones.

    Raises:
        UserError: a file is missing, or belongs to another recipe than the configuration's.
    """
    rows = []
    for row in experiments.rows(name):
        metrics = [read_object(path, name) for path in row.metrics()]
        if row.runs:
            runs = [(run.recipe.teacher, run, read_run(run, name)) for run in row.runs]
            rows.append([Evaluated(row, found, *run) for found, run in zip(metrics, runs, strict=True)])
        else:
            teachers = row.teachers or (None,)
            rows.append([Evaluated(row, found, of) for found, of in zip(metrics, teachers, strict=True)])
    settings = experiments.config.ablations[name].setting_names()
    by_setting = [[row for row in rows if row[0].row.setting == setting] for setting in settings]
    return [row for inside in by_setting for row in [*inside, *_floor(inside)]]


def _floor(rows: Sequence[Sequence[Evaluated]]) -> list[list[Evaluated]]:
    floors = [row[0].metrics["floor"] for row in rows if row[0].metrics.get("floor")]
    if not floors:
        return []
    row = TableRow("Real against real (floor)", rows[0][0].row.setting, None)
    return [[Evaluated(row, {"final": {"mean": floors[0]}})]]


def long_frame(name: str, rows: Sequence[Sequence[Evaluated]]) -> pd.DataFrame:
    """Return every number of a table, one a line, without those that are missing or not finite.

    Columns: table, setting, row, run, teacher, seed, snapshot (`end`, `best` or an image count), block of
    latents (missing for the mean over blocks and for what has no blocks), metric, value, and for means over
    blocks their sampling standard deviation `sampling_std`. `line` and `entry` count the rows and the
    evaluations, `shown` says whether the row shows this snapshot.
    """
    parts = []
    for line, entries in enumerate(rows):
        for entry, of in enumerate(entries):
            part = pd.DataFrame(_numbers(of), columns=NUMBER)
            teacher, seed = of.key
            parts.append(
                part.assign(
                    table=name,
                    setting=of.row.setting,
                    row=of.row.title,
                    run=of.run.id if of.run else None,
                    teacher=teacher,
                    seed=seed,
                    line=line,
                    entry=entry,
                    shown=part["snapshot"] == of.shown()[0],
                )
            )
    frame = pd.concat(parts, ignore_index=True).astype({"seed": "Int64", "block": "Int64"})
    frame = frame.astype({"value": float, "sampling_std": float})
    return frame[np.isfinite(frame["value"])]


def _numbers(of: Evaluated) -> Iterator[tuple[str, int | None, str, float | None, float | None]]:
    """Yield the numbers of one evaluation as `NUMBER` has it."""
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
    shown, content = of.shown()
    facts = {
        "evaluations": found.get("evaluations"),
        "trainable": (of.record.get("parameters") or {}).get("trainable"),
        "images": of.record.get("images") if shown == "end" else content.get("images"),
        "seconds": of.record.get("seconds"),
    }
    for column, value in facts.items():
        yield shown, None, column, value, None


def run_columns(numbers: pd.DataFrame) -> pd.DataFrame:
    """Return one number per evaluation and column of a table: line, entry, teacher, seed, column, value and
    `sampling_std`, its standard deviation over blocks of latents (NaN where there is none).
    """
    shown = numbers[numbers["shown"] & numbers["block"].isna()].rename(columns={"metric": "column"})
    fid = numbers[(numbers["metric"] == "fid") & numbers["block"].notna()]
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
    keys = numbers[[*ENTRY, "teacher", "seed"]].drop_duplicates()
    return pd.concat([part for part in parts if len(part)]).merge(keys, on=ENTRY)


def _over_blocks(blocks: pd.DataFrame, column: str, how: str) -> pd.DataFrame:
    values = blocks.groupby(ENTRY)["value"]
    std = values.std() if how == "mean" else np.nan
    return pd.DataFrame({"column": column, "value": values.agg(how), "sampling_std": std}).reset_index()


def paired(runs: pd.DataFrame, first: int, second: int, column: str) -> pd.DataFrame:
    """Return the values of two rows in pairs of equal teacher and seed, as `first` and `second`.

    A teacher itself has no seed and pairs with every run from it; what others published has neither, and
    pairs with all. `entry_first` and `entry_second` tell which runs they are of.
    """
    inside = runs[runs["column"] == column]
    sides = [inside[inside["line"] == line] for line in (first, second)]
    on = [key for key in ("teacher", "seed") if all(side[key].notna().all() for side in sides)]
    left, right = (
        side[["teacher", "seed", "entry", "value"]].rename(columns={"value": name, "entry": f"entry_{name}"})
        for side, name in zip(sides, ("first", "second"), strict=True)
    )
    how: dict[str, Any] = {"on": on} if on else {"how": "cross"}
    return left.merge(right, **how, suffixes=("", "_second"))
