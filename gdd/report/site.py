"""The results as one self-contained HTML page: no network, no scripts, figures inside."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from gdd.config.metrics import columns
from gdd.experiments import Experiments
from gdd.files import write_text
from gdd.paths import choice_files, figure_files, table_files
from gdd.report.claims import verdicts
from gdd.report.numbers import require
from gdd.report.origins import describe_evaluated, describe_references
from gdd.report.table import Table, build_table
from gdd.report.wording import cell_text, counted, headings, leads, note
from gdd.stages.showing import figure_kinds, page_of, page_tables

_DOWNLOADS = {".csv": "CSV", ".md": "Markdown", ".tex": "LaTeX", ".json": "JSON", ".yaml": "YAML"}
_FIGURES = {
    "curve": "Line chart, at the end of training",
    "spread": "Chart of every run",
    "samples": "Grid of images, a line each",
}
_CAPTIONS = {
    "curve": "{metric} against images seen in training, on the first block of latents only, so that it can "
    "differ a little from the table.",
    "spread": "FID of every run at the end of training, averaged over its blocks of latents, with the mean "
    "and both spreads of every row.",
    "samples": "Images at the end of training, not selected. Every column starts from the same latent; of "
    "several runs the first is shown.",
}


def write_site(experiments: Experiments, target: str) -> Path:
    """Write the page of a target or of a single table.

    Tables and verdicts are computed anew from the metrics; the figures and the table files that the page
    links to must exist.

    Raises:
        UserError: a file is missing (names it and the target that makes it).
    """
    config, names, out = experiments.config, page_tables(experiments, target), page_of(experiments, target)
    tables = [build_table(experiments, name) for name in names]
    page = {
        "target": target,
        "title": (config.project.targets.get(target) or config.ablations[target]).title,
        **_overview(experiments, tables),
        "notes": dict.fromkeys(text for table in tables for text in table.notes),
        "rules": dict.fromkeys(verdict.rule for table in tables for verdict in verdicts(table)),
        "sections": [_section(experiments, table, out) for table in tables],
        "origins": describe_evaluated(tables, experiments.config),
        "references": describe_references(experiments, names),
    }
    write_text(out, render(page))
    return out


def render(page: Mapping[str, Any]) -> str:
    """Fill the page's template."""
    environment = Environment(
        loader=PackageLoader("gdd.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("index.html.j2").render(page)


def _overview(experiments: Experiments, tables: list[Table]) -> dict[str, Any]:
    """Return what the page is about: how many students, of which teachers, in which settings."""
    evaluated = [of for table in tables for line in table.lines for of in line.evaluated]
    teachers = dict.fromkeys(of.teacher for of in evaluated if of.teacher)
    students = {of.run.folder for of in evaluated if of.run}
    return {
        "students": counted(len(students), "trained student") if students else "",
        "teachers": dict.fromkeys(experiments.config.teachers[name].title for name in teachers),
        "settings": {name: title for table in tables for name, title in table.settings.items()},
    }


def _section(experiments: Experiments, table: Table, out: Path) -> dict[str, Any]:
    titles = headings(table)
    names = len(titles) - len(table.columns)
    # The arrow stays on the line of the word it belongs to.
    tied = [re.sub(" (?=[↓↑])", "\N{NO-BREAK SPACE}", title) for title in titles]
    files = {_DOWNLOADS[path.suffix]: path for path in table_files(table.name)}
    if experiments.config.ablations[table.name].choose:
        chosen = choice_files(table.name)
        files |= {f"{_DOWNLOADS[path.suffix]} of what is chosen": path for path in chosen}
    return {
        "name": table.name,
        "title": table.title,
        "caption": table.caption,
        "claims": verdicts(table),
        "headings": [(title, index >= names) for index, title in enumerate(tied)],
        "lines": [
            {
                "kind": line.kind,
                "leads": leads(table, line),
                "cells": [cell_text(table, line, column) for column in table.columns],
            }
            for line in table.lines
        ],
        "note": note(table),
        "definitions": [
            (columns()[column].heading, table.definitions[column])
            for column in table.columns
            if column in table.definitions
        ],
        "figures": [_figure(experiments, table, kind, out) for kind in figure_kinds(experiments, table.name)],
        "downloads": [(text, _link(require(file, table.name), out)) for text, file in files.items()],
    }


def _figure(experiments: Experiments, table: Table, kind: str, out: Path) -> dict[str, str]:
    """Return a picture inside the page, what it shows in words, and the file for print."""
    png, pdf = (require(path, table.name) for path in figure_files(table.name, kind))
    curve = experiments.config.ablations[table.name].curve
    metric = curve if curve and kind == "curve" else "fid"
    rows = ((line.title, cell_text(table, line, metric)) for line in table.lines)
    values = "; ".join(title if kind == "samples" else f"{title} {text}" for title, text in rows)
    return {
        "data": f"data:image/png;base64,{base64.b64encode(png.read_bytes()).decode()}",
        "alt": f"{_FIGURES[kind]}: {values}.",  # for those who do not see it
        "caption": _CAPTIONS[kind].format(metric=columns()[metric].title),
        "pdf": _link(pdf, out),
    }


def _link(path: Path, out: Path) -> str:
    return Path(os.path.relpath(path.resolve(), out.resolve().parent)).as_posix()
