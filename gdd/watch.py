"""`gdd watch`: every run of a results folder in one live table, wherever the runs are being trained."""

from __future__ import annotations

import contextlib
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from gdd.errors import UserError
from gdd.files import read_json

PLAIN_WIDTH = 200  # characters where no terminal limits them, so that names of runs are not cut
SILENT_AFTER = 60.0  # seconds without news after which a run that says it is running is in doubt
STYLES = {"running": "green", "finished": "dim", "stopped": "yellow", "failed": "red", "silent": "red"}


def read_progress(results: Path) -> list[dict[str, Any]]:
    """Return what every run below `results` last said of itself, running ones first."""
    runs = []
    for path in sorted(results.glob("**/state/progress.json")):
        # A run may be set aside or its folder removed while we look.
        with contextlib.suppress(OSError, UserError):
            facts = read_json(path, dict)
            with contextlib.suppress(LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
                if facts["status"] == "running" and time.time() - facts["updated"] > SILENT_AFTER:
                    facts["status"] = "silent"
                progress_table([facts])  # or a damaged disk has left something else
                runs.append(facts)
    return sorted(runs, key=lambda facts: (facts["status"] != "running", facts["name"]))


def progress_table(runs: list[dict[str, Any]]) -> Table:
    """Return the runs as a table: status, share done, rate, losses, time left, where."""
    table = Table("run", "status", "images", "img/s", "losses", "left", "host", box=None, pad_edge=False)
    for facts in runs:
        status, left = facts["status"], facts["seconds_left"]
        losses = [
            f"{key.removeprefix('loss_')} {value:.3f}"
            for key, value in facts["losses"].items()
            if "loss" in key
        ]
        measured = [f"{key} {value:.4g}" for key, value in facts.get("measured", {}).items()]
        table.add_row(
            escape(facts["name"]),
            f"[{STYLES.get(status, 'default')}]{status}[/]",
            f"{facts['images']:,} / {facts['total']:,} ({facts['images'] / facts['total']:.0%})",
            f"{facts['images_per_second']:,.0f}",
            " ".join([*losses, *measured]),
            str(timedelta(seconds=left)) if status == "running" and left is not None else "",
            escape(facts["host"]),
        )
    return table


def watch(results: Path, *, once: bool, interval: float) -> None:
    """Show the table until Ctrl-C; a single time with `once` or where the output is no terminal.

    Raises:
        UserError: there is no such folder.
    """
    if not results.is_dir():
        raise UserError(f"{results} is no folder; give the results folder of a workflow.")
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, PLAIN_WIDTH)
    if once or not console.is_terminal:
        console.print(progress_table(read_progress(results)))
        return
    with Live(console=console, auto_refresh=False) as live, contextlib.suppress(KeyboardInterrupt):
        while True:
            live.update(progress_table(read_progress(results)), refresh=True)
            time.sleep(interval)
