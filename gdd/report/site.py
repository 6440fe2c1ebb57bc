"""The results as one self-contained HTML page: no network, no scripts, figures inside."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from gdd.config.config import Config
from gdd.config.metrics import columns
from gdd.experiments import Experiments
from gdd.files import read_json, write_text
from gdd.paths import choice_files, figure_files, table_files
from gdd.report.claims import verdicts
from gdd.report.evaluated import Evaluated
from gdd.report.notes import counted, definitions, note, setting_notes
from gdd.report.table import Line, Table, build_table, require
from gdd.report.table_files import cell_text, headings, leads
from gdd.stages.showing import figure_kinds, page_of, page_tables, reference_distances

SAME = 0.05  # Frechet distance between two ways to compute one reference; a table's FIDs have two decimals
DOWNLOADS = {".csv": "CSV", ".md": "Markdown", ".tex": "LaTeX", ".json": "JSON", ".yaml": "YAML"}
FIGURES = {
    "curve": "Line chart, at the end of training",
    "spread": "Chart of every run",
    "samples": "Grid of images, a line each",
}
CAPTIONS = {
    "curve": "{metric} against images seen in training, on the first block of latents only: the mean over a "
    "row's runs, at counts where all have a value. Where the table has spreads, a band is the training "
    "spread, and a bar beside the end the mean over all blocks with its sampling spread. Level lines are "
    "rows that were not trained here.",
    "spread": "FID of every run, of the snapshot that its row in the table shows, averaged over the blocks "
    "of latents, with mean and spreads of every row. Level lines are rows that were not trained here.",
    "samples": "Images that were not selected: of a student at the end of training, of several runs or "
    "teachers those of the first. Every column starts from the same latent, but for files of images that "
    "others published.",
}


def write_site(experiments: Experiments, target: str) -> Path:
    """Write the page of a target or of a single table.

    Tables and verdicts are computed anew from the metrics; the figures and the table files that the page
    links to must exist.

    Raises:
        UserError: a file is missing (names it and the target that makes it).
    """
    config, out = experiments.config, page_of(experiments, target)
    tables = [build_table(experiments, name) for name in page_tables(experiments, target)]
    evaluated = [of for table in tables for line in table.lines for of in line.evaluated]
    students = {of.run.folder for of in evaluated if of.run}
    page = {
        "target": target,
        "title": (config.project.targets.get(target) or config.ablations[target]).title,
        "students": counted(len(students), "trained student") if students else "",
        "teachers": dict.fromkeys(config.teachers[of.teacher].title for of in evaluated if of.teacher),
        "settings": {name: setting.title for table in tables for name, setting in table.settings.items()},
        "notes": dict.fromkeys(text for table in tables for text in setting_notes(table)),
        "rules": dict.fromkeys(verdict.rule for table in tables for verdict in verdicts(table)),
        "sections": [_section(experiments, table, out) for table in tables],
        "origins": _origins(tables, config),
        "references": _references(experiments, tables),
    }
    environment = Environment(
        loader=PackageLoader("gdd.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_text(out, environment.get_template("index.html.j2").render(page))
    return out


def _section(experiments: Experiments, table: Table, out: Path) -> dict[str, Any]:
    ablation, titles, meanings = table.ablation, headings(table), definitions(table)
    # The arrow stays on the line of the word it belongs to.
    tied = [re.sub(" (?=[↓↑])", "\N{NO-BREAK SPACE}", title) for title in titles]
    files = {DOWNLOADS[path.suffix]: path for path in table_files(table.name)}
    if ablation.choose:
        files |= {f"{DOWNLOADS[path.suffix]} of what is chosen": path for path in choice_files(table.name)}
    return {
        "name": table.name,
        "title": ablation.title,
        "caption": ablation.caption,
        "claims": verdicts(table),
        "headings": [
            (title, index >= len(titles) - len(ablation.columns)) for index, title in enumerate(tied)
        ],
        "lines": [
            {
                "kind": line.kind,
                "leads": leads(table, line),
                "cells": [cell_text(table, line, column) for column in ablation.columns],
            }
            for line in table.lines
        ],
        "note": note(table),
        "definitions": [
            (columns()[column].heading, meanings[column]) for column in ablation.columns if column in meanings
        ],
        "figures": [_figure(table, kind, out) for kind in figure_kinds(experiments, table.name)],
        "downloads": [(text, _link(require(file, table.name), out)) for text, file in files.items()],
    }


def _figure(table: Table, kind: str, out: Path) -> dict[str, str]:
    """Return a picture inside the page, what it shows in words, and the file for print."""
    png, pdf = (require(path, table.name) for path in figure_files(table.name, kind))
    curve = table.ablation.curve
    metric = curve if curve and kind == "curve" else "fid"
    rows = ((line.row.title, cell_text(table, line, metric)) for line in table.lines)
    values = "; ".join(title if kind == "samples" else f"{title} {text}" for title, text in rows)
    return {
        "data": f"data:image/png;base64,{base64.b64encode(png.read_bytes()).decode()}",
        "alt": f"{FIGURES[kind]}: {values}.",  # for those who do not see it
        "caption": CAPTIONS[kind].format(metric=columns()[metric].title),
        "pdf": _link(pdf, out),
    }


def _link(path: Path, out: Path) -> str:
    return Path(os.path.relpath(path.resolve(), out.resolve().parent)).as_posix()


def _origins(tables: Iterable[Table], config: Config) -> list[dict[str, Any]]:
    """Return every run, every teacher at each number of steps, and others' work in the tables, once each."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    evaluated = ((table, line, of) for table in tables for line in table.lines for of in line.evaluated)
    for table, line, of in evaluated:
        if line.kind == "floor":
            continue
        title = f"teacher {of.teacher}, {counted(line.row.teacher_steps or 0, 'step')}"
        if of.run:
            title = f"{of.run.id}, seed {of.run.seed}"
        elif line.row.external:
            title = f"{config.external[line.row.external].title}, published by others"
        entry = found.setdefault((line.row.setting, title), _origin(line, of, title))
        if table.name not in entry["tables"]:
            entry["tables"].append(table.name)
    return list(found.values())


def _origin(line: Line, of: Evaluated, title: str) -> dict[str, Any]:
    """Return where the numbers of an evaluation come from: what was evaluated, its cost and its hashes."""
    record, parameters = of.record, of.record.get("parameters") or {}
    recipe, provenance = record.get("recipe"), of.metrics["provenance"]
    snapshots = [of.metrics["final"], of.metrics.get("best"), *of.metrics.get("also_at", {}).values()]
    weights = {each["weights_sha256"]: f"at {_count(each['images'])} images" for each in snapshots if each}
    references = {one["sha256"]: name for name, one in of.metrics["references"].items()}
    facts = {
        "Weights": "; ".join(f"{sha} ({at})" if of.run else sha for sha, at in weights.items()),
        "References": "; ".join(f"{sha} ({name})" for sha, name in references.items()),
        "Commands": "; ".join(_commands(line, of)),
        "Code": provenance.get("revision"),
        "Date": provenance.get("date"),
        "Images": _count(record.get("images")),
        "Seconds": _count(record.get("seconds")),
        "Peak memory": _count(record.get("peak_memory_mib"), " MiB"),
        "Parameters": _count(parameters.get("total")),
        "Trainable": _count(parameters.get("trainable")),
        "Frozen": _count(parameters.get("frozen")),
        "Frozen tensors": len(record["frozen"]) if "frozen" in record else None,
        "Recipe hash": record.get("recipe_hash"),
        "Folder": of.run.folder if of.run else None,
        "Licence": of.metrics.get("licence"),
    }
    return {
        "title": title,
        "setting": line.row.setting,
        "tables": [],
        "facts": {key: value for key, value in facts.items() if value is not None},
        "sessions": [_flat(session) for session in record.get("sessions") or []],
        "provenance": _flat(provenance),
        "recipe": yaml.safe_dump(recipe, sort_keys=False, width=90, allow_unicode=True) if recipe else "",
    }


def _commands(line: Line, of: Evaluated) -> list[str]:
    """Return what made the numbers of an evaluation, from what was there before."""
    setting = line.row.setting
    if of.run:
        words = f"{setting} {of.run.id} --seed {of.run.seed}"
        return [f"gdd distill {words}", f"gdd evaluate run {words}"]
    if of.teacher:
        return [f"gdd evaluate teacher {setting} {of.teacher} --steps {line.row.teacher_steps}"]
    return [f"gdd evaluate external {setting} {line.row.external}"]


def _references(experiments: Experiments, tables: Iterable[Table]) -> list[dict[str, Any]]:
    """Return how far every reference of the tables lies from the one that others published."""
    files = {path: table.name for table in tables for path in reference_distances(experiments, table.name)}
    contents = [read_json(require(path, name)) for path, name in files.items()]
    return [
        {
            "title": f"{data['dataset']}, {data['extractor']}",
            "distance": data["frechet_distance"],
            "differs": data["frechet_distance"] > SAME,
            "facts": _flat(data),
        }
        for data in contents
    ]


def _count(value: float | None, unit: str = "") -> str | None:
    return None if value is None else f"{value:,.0f}{unit}"


def _flat(data: Mapping[str, Any]) -> dict[str, str]:
    """Write values as text, inner mappings and lists as JSON."""
    return {
        key.replace("_", " "): value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in data.items()
        if value is not None
    }
