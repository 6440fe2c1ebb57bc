"""The results as one self-contained HTML page: no network, no scripts, figures inside."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from gdd.config.check import known
from gdd.config.metrics import columns
from gdd.config.records import Ablation
from gdd.experiments import Experiments
from gdd.files import write_text
from gdd.report.claims import verdicts
from gdd.report.numbers import require
from gdd.report.origins import describe_evaluated, describe_references
from gdd.report.table import Table, build_table
from gdd.report.wording import cell_text, counted, headings, leads, note
from gdd.targets.paths import CHOICE_ENDINGS, TABLE_ENDINGS, figure_kinds

_DOWNLOADS = {"csv": "CSV", "md": "Markdown", "tex": "LaTeX", "json": "JSON", "yaml": "YAML"}
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


def write_site(experiments: Experiments, target: str, results: Path, out: Path) -> Path:
    """Write the page of a target (or of a single table) to the file `out`, usually `site/<page>.html`.

    Tables and verdicts are computed anew from the metrics; the figures and the table files that the page
    links to must exist.

    Raises:
        UserError: the target is unknown, or a file is missing (names it and the target that makes it).
    """
    title, names = target_tables(experiments, target)
    tables = [build_table(experiments, name, results) for name in names]
    page = {
        "target": target,
        "title": title,
        **_overview(experiments, tables),
        "notes": dict.fromkeys(text for table in tables for text in table.notes),
        "rules": dict.fromkeys(verdict.rule for table in tables for verdict in verdicts(table)),
        "sections": [_section(experiments, table, results, out) for table in tables],
        "origins": describe_evaluated(tables, experiments.config),
        "references": describe_references(experiments, names, results),
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


def _section(experiments: Experiments, table: Table, results: Path, out: Path) -> dict[str, Any]:
    titles = headings(table)
    names = len(titles) - len(table.columns)
    # The arrow stays on the line of the word it belongs to.
    tied = [re.sub(" (?=[↓↑])", "\N{NO-BREAK SPACE}", title) for title in titles]
    files = {_DOWNLOADS[ending]: f"tables/{table.name}.{ending}" for ending in TABLE_ENDINGS}
    if experiments.config.ablations[table.name].choose:
        files |= {
            f"{_DOWNLOADS[ending]} of what is chosen": f"tables/{table.name}-choice.{ending}"
            for ending in CHOICE_ENDINGS
        }
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
        "figures": [
            _figure(experiments, table, kind, results, out) for kind in figure_kinds(experiments, table.name)
        ],
        "downloads": [(text, _link(require(results, file, table.name), out)) for text, file in files.items()],
    }


def _figure(experiments: Experiments, table: Table, kind: str, results: Path, out: Path) -> dict[str, str]:
    """Return a picture inside the page, what it shows in words, and the file for print."""
    png, pdf = (
        require(results, f"figures/{table.name}-{kind}.{ending}", table.name) for ending in ("png", "pdf")
    )
    curve = experiments.config.ablations[table.name].curve
    metric = curve.y if curve and kind == "curve" else "fid"
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
