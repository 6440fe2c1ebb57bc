"""Snakemake executor plugin: jobs go to SLURM (or this machine) through submitit.

Snakemake looks for `Executor`, `ExecutorSettings` and `common_settings` here. They are imported when asked
for: on a compute node only `node` and `command` are needed, and the others would cost every job time.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Executor", "ExecutorSettings", "common_settings"]


def __getattr__(name: str) -> Any:
    if name == "Executor":
        from snakemake_executor_plugin_submitit.executor import Executor

        return Executor
    if name in ("ExecutorSettings", "common_settings"):
        from snakemake_executor_plugin_submitit import settings

        return getattr(settings, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
