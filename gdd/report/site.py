"""The results as one self-contained HTML page: no network, no scripts, figures inside."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gdd.config.load import known
from gdd.errors import UserError
from gdd.experiments import Experiments, Run, TableRow
from gdd.files import write_text
from gdd.report.findings import findings
from gdd.report.inputs import (
    TABLE_ENDINGS,
    curve_stem,
    read_input,
    read_run,
    require,
    samples_stem,
    table_file,
)
from gdd.report.style import column_title
from gdd.report.table import Table, cell_text, headings, leads
from gdd.report.tables import build_table

_VERDICTS = {"holds": "Holds", "turns": "Turns round", "open": "Open"}


@dataclass(frozen=True)
class Figure:
    """A picture inside the page, what it shows in words, and the file for print."""

    data: str
    alt: str
    caption: str
    pdf: str


def write_site(experiments: Experiments, target: str, results: Path, out: Path) -> Path:
    """Write the page of a target (or of a single table) to the file `out`, usually `site/index.html`.

    Tables and findings are computed anew from the metrics; the figures and the table files that the page
    links to must exist.

    Raises:
        UserError: the target is unknown, or a file is missing (names it and the target that makes it).
    """
    names = table_names(experiments, target)
    tables = {name: build_table(experiments, name, results) for name in names}
    page = {
        "target": target,
        "summary": _summary(experiments, list(tables.values())),
        "verdicts": _VERDICTS,
        "findings": findings(list(tables.values()), experiments),
        "sections": [_section(experiments, table, results, out) for table in tables.values()],
        "runs": _runs(experiments, names, results),
        "teachers": _teachers(experiments, names, results),
    }
    write_text(out, render(page))
    return out


def table_names(experiments: Experiments, target: str) -> list[str]:
    """Return the tables of a target; a table's own name is a target as well.

    Raises:
        UserError: there is no such target.
    """
    targets = experiments.config.project.targets
    if target in targets:
        return list(targets[target])
    known(experiments.config, "ablations", target, "command line", "target")
    return [target]


def render(page: Mapping[str, Any]) -> str:
    """Fill the page's template."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("gdd.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("index.html.j2").render(page)


def _summary(experiments: Experiments, tables: list[Table]) -> str:
    settings = {name: title for table in tables for name, title in table.settings.items()}
    runs = {(line.setting, line.run, seed) for table in tables for line in table.lines for seed in line.seeds}
    teachers = [
        experiments.config.teachers[experiments.config.settings[name].teacher].title for name in settings
    ]
    students = f"{len(runs)} trained student{'' if len(runs) == 1 else 's'}"
    return (
        f"A diffusion model ({', '.join(dict.fromkeys(teachers))}) needs many network evaluations for an image; "
        "here it is trained further into a generator that needs one. The page compares "
        f"{students} on {', '.join(settings.values())} with each other, with the teacher and with real images, "
        "and says which of the expected differences show and which do not."
    )


def _section(experiments: Experiments, table: Table, results: Path, out: Path) -> dict[str, Any]:
    ablation = experiments.config.ablations[table.name]
    figures = []
    if ablation.curve is not None:
        metric = column_title(ablation.curve.y)
        several = len(experiments.rows(table.name)[0].runs) > 1 or any(len(x.seeds) > 1 for x in table.lines)
        band = " Lines are means over training seeds, bands their standard deviation." if several else ""
        figures.append(
            _figure(
                results,
                curve_stem(table.name),
                table.name,
                out,
                alt=f"Line chart of {metric[:-2]} against images seen in training. {_in_words(table, ablation.curve.y)}",
                caption=f"{metric} against images seen in training, on the first block of latents only, so that it "
                f"can differ a little from the table.{band} Dashed: the teacher. Dotted: real against real images.",
            )
        )
    titles = ", ".join(dict.fromkeys(line.title for line in table.lines))
    figures.append(
        _figure(
            results,
            samples_stem(table.name),
            table.name,
            out,
            alt=f"Grid of generated images, one row each for {titles}.",
            caption="Images at the end of training, not selected. Every column starts from the same latent; of "
            "several training seeds the first is shown.",
        )
    )
    return {
        "name": table.name,
        "title": table.title,
        "caption": table.caption,
        "headings": _headings(table),
        "lines": [
            {
                "kind": line.kind,
                "leads": leads(table, line),
                "cells": [cell_text(line, column) for column in table.columns],
            }
            for line in table.all_lines()
        ],
        "note": table.note(),
        "definitions": [
            (column_title(column), table.definitions[column])
            for column in table.columns
            if column in table.definitions
        ],
        "figures": figures,
        "downloads": [
            (ending, _link(require(results, table_file(table.name, ending), table.name), out))
            for ending in TABLE_ENDINGS
        ],
    }


def _headings(table: Table) -> list[tuple[str, bool]]:
    titles = headings(table)
    names = len(titles) - len(table.columns)
    return [(title, index >= names) for index, title in enumerate(titles)]


def _in_words(table: Table, metric: str) -> str:
    """Say where the curves end, for those who cannot see them."""
    values = [
        f"{line.title} {cell_text(line, metric).value}" for line in table.all_lines() if metric in line.cells
    ]
    return f"Final values over all blocks: {', '.join(values)}." if values else ""


def _figure(results: Path, stem: str, target: str, out: Path, *, alt: str, caption: str) -> Figure:
    png = require(results, f"{stem}.png", target)
    pdf = require(results, f"{stem}.pdf", target)
    data = base64.b64encode(png.read_bytes()).decode()
    return Figure(f"data:image/png;base64,{data}", alt, caption, _link(pdf, out))


def _link(path: Path, out: Path) -> str:
    return Path(os.path.relpath(path.resolve(), out.resolve().parent)).as_posix()


def _runs(experiments: Experiments, names: list[str], results: Path) -> list[dict[str, Any]]:
    """Return every run once, with the tables it stands in."""
    found: dict[str, tuple[Run, list[str]]] = {}
    for name in names:
        for row in experiments.rows(name):
            for run in row.runs:
                tables = found.setdefault(run.folder, (run, []))[1]
                if name not in tables:
                    tables.append(name)
    return [_run(results, run, tables) for run, tables in found.values()]


def _run(results: Path, run: Run, tables: list[str]) -> dict[str, Any]:
    data = read_run(results, run, tables[0])
    metrics = read_input(results, f"{run.folder}/metrics.json", tables[0])
    parameters = data.get("parameters") or {}
    facts = {
        "Seed": run.seed,
        "Images": _count(data.get("images")),
        "Seconds": _count(data.get("seconds")),
        "Peak memory": _count(data.get("peak_memory_mib"), " MiB"),
        "Parameters": _count(parameters.get("total")),
        "Trainable": _count(parameters.get("trainable")),
        "Frozen": _count(parameters.get("frozen")),
        "Frozen tensors": len(data["frozen"]) if "frozen" in data else None,
        "Recipe hash": data.get("recipe_hash"),
        "Folder": run.folder,
        "In tables": ", ".join(tables),
    }
    sessions = data.get("sessions") or []
    return {
        "title": f"{run.id}, seed {run.seed}",
        "setting": run.setting,
        "facts": {key: value for key, value in facts.items() if value not in (None, "")},
        "sessions": [_flat(session) for session in sessions],
        "provenance": _flat(metrics.get("provenance") or {}),
        "recipe": yaml.safe_dump(data["recipe"], sort_keys=False, width=90, allow_unicode=True),
    }


def _teachers(experiments: Experiments, names: list[str], results: Path) -> list[dict[str, Any]]:
    """Return what is known about the teacher at each number of steps, once each."""
    found: dict[str, tuple[TableRow, str]] = {}
    for name in names:
        for row in experiments.rows(name):
            if row.teacher_steps is not None:
                found.setdefault(row.metrics()[0], (row, name))
    return [
        {
            "title": f"{row.teacher}, {row.teacher_steps} step{'' if row.teacher_steps == 1 else 's'}",
            "setting": row.setting,
            "provenance": _flat(read_input(results, path, name).get("provenance") or {}),
        }
        for path, (row, name) in found.items()
    ]


def _count(value: float | None, unit: str = "") -> str:
    return "" if value is None else f"{value:,.0f}{unit}"


def _flat(data: Mapping[str, Any]) -> dict[str, str]:
    """Write values as text, inner mappings and lists as JSON."""
    return {
        key.replace("_", " "): value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in data.items()
        if value is not None
    }
