"""Where the numbers of a page come from: runs, their cost and their hashes, as plain text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gdd.experiments import Experiments
from gdd.report.numbers import Evaluated, read_object
from gdd.report.table import Table
from gdd.report.wording import counted
from gdd.targets.paths import reference_distances

SAME = 0.05  # Frechet distance between two ways to compute one reference; a table's FIDs have two decimals


def describe_runs(tables: Iterable[Table]) -> list[dict[str, Any]]:
    """Return every run of the tables once: title, setting, facts, sessions, provenance and recipe."""
    found: dict[str, tuple[Evaluated, list[str]]] = {}
    for table in tables:
        for of in _evaluated(table):
            if of.run is not None:
                names = found.setdefault(of.run.folder, (of, []))[1]
                names += [table.name] if table.name not in names else []
    return [_run(of, names) for of, names in found.values()]


def _run(of: Evaluated, tables: list[str]) -> dict[str, Any]:
    run, data = of.run, of.record
    assert run is not None
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
    return {
        "title": f"{run.id}, seed {run.seed}",
        "setting": run.setting,
        "facts": {key: value for key, value in facts.items() if value not in (None, "")},
        "sessions": [_flat(session) for session in data.get("sessions") or []],
        "provenance": _flat(of.metrics.get("provenance") or {}),
        "recipe": yaml.safe_dump(data["recipe"], sort_keys=False, width=90, allow_unicode=True),
    }


def describe_others(tables: Iterable[Table], experiments: Experiments) -> list[dict[str, Any]]:
    """Return what is known about every teacher at each number of steps and of others' work, once each."""
    described: dict[tuple[str, str, str], dict[str, Any]] = {}
    for of in (of for table in tables for of in _evaluated(table)):
        row, facts = of.row, {}
        if of.run or not (row.teacher_steps or row.external):
            continue
        if row.external is not None:
            kind, title = "published by others", experiments.config.external[row.external].title
            weights = of.metrics["final"].get("weights_sha256")
            facts = {"weights or images": weights, "licence": of.metrics.get("licence")}
        else:
            kind, title = "teacher", f"{of.teacher}, {counted(row.teacher_steps or 0, 'step')}"
        provenance = _flat(facts) | _flat(of.metrics.get("provenance") or {})
        described.setdefault(
            (kind, title, row.setting),
            {"kind": kind, "title": title, "setting": row.setting, "provenance": provenance},
        )
    return list(described.values())


def describe_references(
    experiments: Experiments, names: Sequence[str], results: Path
) -> list[dict[str, Any]]:
    """Return how far every reference of the tables lies from the one that others published.

    Raises:
        UserError: a file is missing.
    """
    found = {path: name for name in names for path in reference_distances(experiments, name)}
    contents = [read_object(results, path, name) for path, name in found.items()]
    return [
        {
            "title": f"{data['dataset']}, {data['extractor']}",
            "distance": data["frechet_distance"],
            "differs": data["frechet_distance"] > SAME,
            "facts": _flat(data),
        }
        for data in contents
    ]


def _evaluated(table: Table) -> Iterable[Evaluated]:
    return (of for line in table.lines for of in line.evaluated)


def _count(value: float | None, unit: str = "") -> str:
    return "" if value is None else f"{value:,.0f}{unit}"


def _flat(data: Mapping[str, Any]) -> dict[str, str]:
    """Write values as text, inner mappings and lists as JSON."""
    return {
        key.replace("_", " "): value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in data.items()
        if value is not None
    }
