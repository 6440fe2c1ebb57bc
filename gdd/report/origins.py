"""Where the numbers of a page come from: what was evaluated, its cost and its hashes, as plain text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from gdd.config.config import Config
from gdd.experiments import Experiments
from gdd.report.numbers import Evaluated, read_object
from gdd.report.table import Table
from gdd.report.wording import counted
from gdd.stages.showing import reference_distances

SAME = 0.05  # Frechet distance between two ways to compute one reference; a table's FIDs have two decimals


def describe_evaluated(tables: Iterable[Table], config: Config) -> list[dict[str, Any]]:
    """Return every run, every teacher at each number of steps, and others' work in the tables, once each."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for table in tables:
        for of in (of for line in table.lines if line.kind != "floor" for of in line.evaluated):
            title = _title(of, config)
            entry = found.setdefault((of.row.setting, title), _describe(of, title))
            if table.name not in entry["tables"]:
                entry["tables"].append(table.name)
    return list(found.values())


def _title(of: Evaluated, config: Config) -> str:
    if of.run:
        return f"{of.run.id}, seed {of.run.seed}"
    if of.row.external is not None:
        return f"{config.external[of.row.external].title}, published by others"
    return f"teacher {of.teacher}, {counted(of.row.teacher_steps or 0, 'step')}"


def _describe(of: Evaluated, title: str) -> dict[str, Any]:
    parameters, weights = of.record.get("parameters") or {}, of.metrics["final"].get("weights_sha256")
    facts = {
        "Images": _count(of.record.get("images")),
        "Seconds": _count(of.record.get("seconds")),
        "Peak memory": _count(of.record.get("peak_memory_mib"), " MiB"),
        "Parameters": _count(parameters.get("total")),
        "Trainable": _count(parameters.get("trainable")),
        "Frozen": _count(parameters.get("frozen")),
        "Frozen tensors": len(of.record["frozen"]) if "frozen" in of.record else None,
        "Recipe hash": of.record.get("recipe_hash"),
        "Folder": of.run.folder if of.run else None,
        "Weights or images": weights if of.row.external else None,
        "Licence": of.metrics.get("licence"),
    }
    recipe = of.record.get("recipe")
    return {
        "title": title,
        "setting": of.row.setting,
        "tables": [],
        "facts": {key: value for key, value in facts.items() if value is not None},
        "sessions": [_flat(session) for session in of.record.get("sessions") or []],
        "provenance": _flat(of.metrics.get("provenance") or {}),
        "recipe": yaml.safe_dump(recipe, sort_keys=False, width=90, allow_unicode=True) if recipe else "",
    }


def describe_references(experiments: Experiments, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return how far every reference of the tables lies from the one that others published.

    Raises:
        UserError: a file is missing.
    """
    found = {path: name for name in names for path in reference_distances(experiments, name)}
    contents = [read_object(path, name) for path, name in found.items()]
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
