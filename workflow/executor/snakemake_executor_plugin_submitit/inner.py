"""Snakemake itself, started with less work: what runs one job on its node.

Starting is nearly all that this process does on a processor. Half of that is garbage collection and the
loading of plugins that a single job has no use for: reports, with all they import, and other executors.
"""

from __future__ import annotations

import contextlib
import gc
import pkgutil
import sys
from collections.abc import Iterator
from typing import Any


def main() -> None:
    """Be `python -m snakemake`."""
    gc.disable()
    with contextlib.suppress(ImportError, AttributeError):  # a Snakemake with other insides starts as ever
        _leave_out_reports()
        with _no_plugins_to_be_found():
            _collect_executors()
    from snakemake.cli import main as snakemake

    gc.freeze()
    gc.enable()
    snakemake(sys.argv[1:])


def _leave_out_reports() -> None:
    from snakemake_interface_report_plugins.registry import ReportPluginRegistry

    def collect_plugins(self: Any) -> None:
        self.plugins = {}

    ReportPluginRegistry.collect_plugins = collect_plugins


def _collect_executors() -> None:
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    ExecutorPluginRegistry()  # of which there is one, which looks for plugins this once


@contextlib.contextmanager
def _no_plugins_to_be_found() -> Iterator[None]:
    found = pkgutil.iter_modules
    pkgutil.iter_modules = lambda *_, **__: iter(())  # type: ignore[assignment]
    try:
        yield
    finally:
        pkgutil.iter_modules = found


if __name__ == "__main__":
    main()
