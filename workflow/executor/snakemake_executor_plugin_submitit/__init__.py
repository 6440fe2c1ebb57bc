"""Snakemake executor plugin: jobs go to SLURM (or this machine) through submitit.

Snakemake looks for three names here. Their modules are imported when asked for: on a compute node only `node`
is needed, and the others would cost every job time.
"""

from __future__ import annotations

import importlib
from typing import Any

_PLACES = {"Executor": "executor", "ExecutorSettings": "settings", "common_settings": "settings"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
