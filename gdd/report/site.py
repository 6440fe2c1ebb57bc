"""The results as one self-contained HTML page: no network, no scripts, figures inside."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gdd.config.load import known
from gdd.config.records import Ablation
from gdd.experiments import Experiments
from gdd.files import write_text
from gdd.report.findings import findings
from gdd.report.inputs import (
    curve_stem,
    require,
    samples_stem,
    table_file,
)
from gdd.report.origins import describe_runs, describe_teachers
from gdd.report.style import column_title
from gdd.report.table import Table, cell_text, headings, leads
from gdd.report.tables import build_table
from gdd.targets import TABLE_ENDINGS

_VERDICTS = {"holds": "Holds", "turns": "Turns round", "open": "Open"}


@dataclass(frozen=True)
class Figure:
    """A picture inside the page, what it shows in words, and the file for print."""

    data: str
    alt: str
    caption: str
    pdf: str


def write_site(experiments: Experiments, target: str, results: Path, out: Path) -> Path:
    """Write the page of a target (or of a single table) to the file `out`, usually `site/<page>.html`.

    Tables and findings are computed anew from the metrics; the figures and the table files that the page
    links to must exist.

    Raises:
        UserError: the target is unknown, or a file is missing (names it and the target that makes it).
    """
    title, names = target_tables(experiments, target)
    tables = {name: build_table(experiments, name, results) for name in names}
    page = {
        "target": target,
        "title": title,
        "summary": _summary(experiments, list(tables.values())),
        "verdicts": _VERDICTS,
        "findings": findings(list(tables.values()), experiments),
        "sections": [_section(experiments, table, results, out) for table in tables.values()],
        "runs": describe_runs(experiments, names, results),
        "teachers": describe_teachers(experiments, names, results),
    }
    write_text(out, render(page))
    return out


def target_tables(experiments: Experiments, target: str) -> tuple[str, tuple[str, ...]]:
    """Return the title and the tables of a target; a table's own name is a target as well.

    Raises:
        UserError: there is no such target.
    """
    targets = experiments.config.project.targets
    if target in targets:
        return targets[target].title, targets[target].tables
    ablation: Ablation = known(experiments.config, "ablations", target, "command line", "target")
    return ablation.title, (target,)


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
        f"A diffusion model ({', '.join(dict.fromkeys(teachers))}) needs many network evaluations for an "
        "image; here it is trained further into a generator that needs one. The page compares "
        f"{students} on {', '.join(settings.values())} with each other, with the teacher and with real "
        "images, and says which of the expected differences show and which do not."
    )


def _section(experiments: Experiments, table: Table, results: Path, out: Path) -> dict[str, Any]:
    ablation = experiments.config.ablations[table.name]
    figures = []
    if ablation.curve is not None:
        alt, caption = _curve_in_words(table, ablation.curve.y)
        figures.append(_figure(results, curve_stem(table.name), table.name, out, alt, caption))
    titles = ", ".join(dict.fromkeys(line.title for line in table.lines))
    alt = f"Grid of generated images, one row each for {titles}."
    caption = (
        "Images at the end of training, not selected. Every column starts from the same latent; "
        "of several training seeds the first is shown."
    )
    figures.append(_figure(results, samples_stem(table.name), table.name, out, alt, caption))
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
    # The arrow stays on the line of the word it belongs to.
    tied = [
        title.replace(" ↓", "\N{NO-BREAK SPACE}↓").replace(" ↑", "\N{NO-BREAK SPACE}↑") for title in titles
    ]
    return [(title, index >= names) for index, title in enumerate(tied)]


def _curve_in_words(table: Table, metric: str) -> tuple[str, str]:
    """Return the alternative text, which says where the curves end, and the caption."""
    name = column_title(metric).rstrip(" ↓↑")
    values = [
        f"{line.title} {cell_text(line, metric).value}" for line in table.all_lines() if metric in line.cells
    ]
    alt = f"Line chart of {name} against images seen in training."
    if values:
        alt += f" Final values over all blocks of latents: {', '.join(values)}."
    caption = (
        f"{name} against images seen in training, on the first block of latents only, so that it can differ "
        "a little from the table. Dashed: the teacher. Dotted: real against real images."
    )
    if any(len(line.seeds) > 1 for line in table.lines):
        caption += " Lines are means over training seeds, bands their standard deviation."
    return alt, caption


def _figure(results: Path, stem: str, target: str, out: Path, alt: str, caption: str) -> Figure:
    png = require(results, f"{stem}.png", target)
    pdf = require(results, f"{stem}.pdf", target)
    data = base64.b64encode(png.read_bytes()).decode()
    return Figure(f"data:image/png;base64,{data}", alt, caption, _link(pdf, out))


def _link(path: Path, out: Path) -> str:
    return Path(os.path.relpath(path.resolve(), out.resolve().parent)).as_posix()
