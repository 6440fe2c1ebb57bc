"""Where the numbers of a page come from: runs, their cost and their hashes, as plain text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gdd.experiments import Experiments, Run, TableRow
from gdd.report.inputs import read_input, read_run
from gdd.targets.paths import reference_distances

SAME = 0.05  # Frechet distance between two ways to compute one reference; a table's FIDs have two decimals


def describe_runs(experiments: Experiments, names: Sequence[str], results: Path) -> list[dict[str, Any]]:
    """Return every run of the tables `names` once: title, facts, sessions, provenance and recipe.

    Raises:
        UserError: a file of a run is missing or belongs to another recipe.
    """
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


def describe_others(experiments: Experiments, names: Sequence[str], results: Path) -> list[dict[str, Any]]:
    """Return what is known about every teacher at each number of steps and of others' work, once each.

    Raises:
        UserError: a metrics file is missing.
    """
    found: dict[str, tuple[str, str, TableRow, str]] = {}
    for name in names:
        for row in experiments.rows(name):
            if row.external is not None:
                title = experiments.config.external[row.external].title
                found.setdefault(row.metrics()[0], ("published by others", title, row, name))
            if row.teacher_steps is not None:
                steps = f"{row.teacher_steps} step{'' if row.teacher_steps == 1 else 's'}"
                for path, teacher in zip(row.metrics(), row.teachers, strict=True):
                    found.setdefault(path, ("teacher", f"{teacher}, {steps}", row, name))
    described = []
    for path, (kind, title, row, name) in found.items():
        metrics = read_input(results, path, name)
        facts = {
            "weights or images": metrics["final"].get("weights_sha256"),
            "licence": metrics.get("licence"),
        }
        provenance = _flat(facts if row.external else {}) | _flat(metrics.get("provenance") or {})
        described.append({"kind": kind, "title": title, "setting": row.setting, "provenance": provenance})
    return described


def describe_references(
    experiments: Experiments, names: Sequence[str], results: Path
) -> list[dict[str, Any]]:
    """Return how far every reference of the tables lies from the one that others published.

    Raises:
        UserError: a file is missing.
    """
    found = {path: name for name in names for path in reference_distances(experiments, name)}
    described = []
    for path, name in found.items():
        data = read_input(results, path, name)
        described.append(
            {
                "title": f"{data['dataset']}, {data['extractor']}",
                "distance": data["frechet_distance"],
                "differs": data["frechet_distance"] > SAME,
                "facts": _flat(data),
            }
        )
    return described


def _count(value: float | None, unit: str = "") -> str:
    return "" if value is None else f"{value:,.0f}{unit}"


def _flat(data: Mapping[str, Any]) -> dict[str, str]:
    """Write values as text, inner mappings and lists as JSON."""
    return {
        key.replace("_", " "): value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in data.items()
        if value is not None
    }
