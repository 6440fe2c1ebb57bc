"""The results as one self-contained HTML page: no network, no scripts, figures inside."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gdd.config.check import known
from gdd.config.records import Ablation
from gdd.experiments import Experiments
from gdd.files import write_text
from gdd.report.findings import findings
from gdd.report.inputs import choice_file, figure_stem, require, table_file
from gdd.report.note import note
from gdd.report.origins import describe_others, describe_references, describe_runs
from gdd.report.runs import runs_in_words
from gdd.report.style import column_title
from gdd.report.table import Table, cell_text, headings, leads
from gdd.report.tables import build_table
from gdd.targets.paths import CHOICE_ENDINGS, TABLE_ENDINGS, figure_kinds

_DOWNLOADS = {"csv": "CSV", "md": "Markdown", "tex": "LaTeX", "json": "JSON", "yaml": "YAML"}
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
        "others": describe_others(experiments, names, results),
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
    runs = {
        (line.setting, run.id, run.seed)
        for table in tables
        for line in table.lines
        for run in line.runs
        if line.trained
    }
    names = dict.fromkeys(run.teacher for table in tables for line in table.lines for run in line.runs)
    teachers = [experiments.config.teachers[name].title for name in names]
    others = sum(line.kind == "external" for table in tables for line in table.lines)
    if not runs and others:
        return (
            f"Generators that others published, or images made by them, on {', '.join(settings.values())}: "
            "judged by one pass over their images, beside what is reported of them."
        )
    students = f"{len(runs)} trained student{'' if len(runs) == 1 else 's'}"
    return (
        f"A diffusion model ({' or '.join(dict.fromkeys(teachers))}) needs many network evaluations for an "
        "image; here it is trained further into a generator that needs one. The page compares "
        f"{students} on {', '.join(settings.values())} with each other, with the teacher and with real "
        "images, and says which of the expected differences show and which do not."
    )


def _section(experiments: Experiments, table: Table, results: Path, out: Path) -> dict[str, Any]:
    figures = []
    for kind in figure_kinds(experiments, table.name):
        if kind == "curve":
            curve = experiments.config.ablations[table.name].curve
            alt, caption = _curve_in_words(table, curve.y if curve else "fid")
        else:
            alt, caption = _spread_in_words(table) if kind == "spread" else _samples_in_words(table)
        figures.append(_figure(results, figure_stem(table.name, kind), table.name, out, alt, caption))
    downloads = {_DOWNLOADS[ending]: table_file(table.name, ending) for ending in TABLE_ENDINGS}
    if experiments.config.ablations[table.name].choose:
        downloads |= {
            f"{_DOWNLOADS[ending]} of what is chosen": choice_file(table.name, ending)
            for ending in CHOICE_ENDINGS
        }
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
        "note": note(table),
        "definitions": [
            (column_title(column), table.definitions[column])
            for column in table.columns
            if column in table.definitions
        ],
        "figures": figures,
        "downloads": [
            (text, _link(require(results, file, table.name), out)) for text, file in downloads.items()
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
    designs = [runs_in_words(line.keys) for line in table.lines if line.run and len(line.runs) > 1]
    if designs:
        caption += (
            f" Lines are means over {' or '.join(dict.fromkeys(designs))}; bands are the training spread, "
            "their standard deviation."
        )
    if any(line.blocks > 1 for line in table.lines):
        caption += (
            " Bars right of the ends are the sampling spread: the standard deviation over blocks of latents."
        )
    return alt, caption


def _spread_in_words(table: Table) -> tuple[str, str]:
    """Return the alternative text, with every run's number, and the caption of the figure of all runs."""
    parts = []
    for line in table.lines:
        values = [f"{run.values['fid']:.2f}" for run in line.runs if "fid" in run.values]
        if values:
            parts.append(f"{line.title} {', '.join(values)}")
    caption = (
        "FID of every run at the end of training, averaged over its blocks of latents: small marks, shaped "
        "by teacher. Below them the mean with the training spread (thick: standard deviation over the runs) "
        "and the sampling spread (thin, capped: standard deviation over blocks of latents within a run)."
    )
    return f"Chart of the FID of every run. {'; '.join(parts)}.", caption


def _samples_in_words(table: Table) -> tuple[str, str]:
    titles = ", ".join(dict.fromkeys(line.title for line in table.lines))
    caption = (
        "Images at the end of training, not selected. Every column starts from the same latent; "
        "of several runs the first is shown."
    )
    return f"Grid of generated images, one row each for {titles}.", caption


def _figure(results: Path, stem: str, target: str, out: Path, alt: str, caption: str) -> Figure:
    png = require(results, f"{stem}.png", target)
    pdf = require(results, f"{stem}.pdf", target)
    data = base64.b64encode(png.read_bytes()).decode()
    return Figure(f"data:image/png;base64,{data}", alt, caption, _link(pdf, out))


def _link(path: Path, out: Path) -> str:
    return Path(os.path.relpath(path.resolve(), out.resolve().parent)).as_posix()
