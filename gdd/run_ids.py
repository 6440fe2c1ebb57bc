"""Readable names of recipes, which are the folders of runs: `gdd-i`, `gdd-i.lr.generator-0.001`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from gdd.config.recipe import Recipe
from gdd.config.record import Record

LONGEST = 150  # characters; file systems allow 255 for a name


def name_of(recipe: Recipe, methods: Mapping[str, Recipe]) -> str:
    """Name a recipe by the nearest of a setting's methods and what differs from it.

    Depends on the recipe alone, not on who asks, so that two tables share the run.
    """
    differences = {name: _differences(base, recipe) for name, base in methods.items()}
    _, name = min((len(changed), name) for name, changed in differences.items())
    run_id = ".".join([name, *(_tag(key, value) for key, value in differences[name])])
    return run_id if len(run_id) <= LONGEST else f"{run_id[:LONGEST]}-{_digest(run_id)}"


def _differences(base: Recipe, recipe: Recipe) -> list[tuple[str, Any]]:
    before, after = (dict(_leaves(part)) for part in (base, recipe))
    return [(key, value) for key, value in after.items() if before[key] != value]


def _leaves(record: Record, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in record:  # all of them, also those that a dump leaves out
        if isinstance(value, Record):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple) else value


def _tag(key: str, value: Any) -> str:
    """Write one difference as part of a folder's name, so that no other difference reads the same."""
    if isinstance(value, list):
        text = "+".join(map(str, value))
        # A list could read like the name of a freeze policy, or two entries of it like one.
        exact = key != "freeze" and all(re.fullmatch(r"[A-Za-z0-9_-]+", entry) for entry in value)
    else:
        text = json.dumps(value).strip('"')
        exact = not isinstance(value, str) or re.fullmatch(r"[A-Za-z0-9_+-]+", value) is not None
    if exact and len(text) <= 60:
        return f"{key}-{text}"
    return f"{key}-{re.sub(r'[^A-Za-z0-9+_-]', '_', text)[:40]}-{_digest(json.dumps(value))}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
