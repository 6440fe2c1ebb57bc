"""What jobs asked for and what they used: a table for people and a CSV file for programs; and their logs."""

from __future__ import annotations

import csv
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean
from typing import Any

from snakemake_executor_plugin_submitit.clusters import Cluster
from snakemake_executor_plugin_submitit.jobs import Job
from snakemake_executor_plugin_submitit.progress import log_end
from snakemake_executor_plugin_submitit.verdict import Ended

LOG = "0_log.out"  # how submitit's names of logs end
NAMES = 10  # of failed jobs that are told in the end
LOG_BYTES, LOG_LINES = 16384, 8  # of the end of a failed job's log
# What a rule's command printed, between what Snakemake says on the node before and after it.
_COMMANDS_WORDS = re.compile(
    r"(?:.*\n    resources: [^\n]*\n)?(.*?)"
    r"(?:RuleException:\nCalledProcessError in|\[\w{3} \w{3} [^\n]*\]\nError in )",
    re.DOTALL,
)
BRIEF, LITTLE_MB = 1, 500  # minutes and MB of which a job's start is a large part: they waste nothing
COLUMNS = [
    *("job_id", "rule", "name", "state", "nodes", "starts"),
    *("asked_minutes", "asked_mem_mb", "asked_cpus", "asked_gpus"),
    *("used_minutes", "used_mem_mb", "used_cpu_percent", "used_gpu_percent"),
]


class Report:
    """Jobs that ended, a row each; what is not known is None."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, job: Job, ended: Ended) -> None:
        row = dict.fromkeys(COLUMNS) | {
            "job_id": job.job_id,
            "rule": job.rule,
            "name": job.label,
            "state": ended.state or ("COMPLETED" if ended.success else "FAILED"),
            "nodes": ended.nodes or job.running,
            "starts": ended.used.get("starts"),
            "asked_minutes": job.request.minutes,
            "asked_mem_mb": job.request.mem_mb or None,
            "asked_cpus": job.request.cpus,
            "asked_gpus": job.request.gpus,
        }
        self.rows.append(row)
        _use(row, ended.used)

    def failed(self) -> str:
        """Return which jobs failed, each in its last try, in one line; '' if none did."""
        last = {row["name"]: row["state"] for row in self.rows}
        names = [name for name, state in last.items() if state != "COMPLETED"]
        more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
        return f"{len(names)} of {len(last)} jobs failed: {', '.join(names[:NAMES])}{more}" if names else ""

    def finish(self, cluster: Cluster, path: Path, threshold: float) -> str:
        """Add what the cluster's accounting knows, write the CSV file and return the table."""
        accounted = cluster.used([row["job_id"] for row in self.rows])
        for row in self.rows:
            _use(row, accounted.get(row["job_id"], {}))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        lines = [f"{'rule':<24}{'jobs':>5}{'minutes':>16}{'memory, MB':>18}{'CPU':>6}{'GPU':>6}"]
        for rule in dict.fromkeys(row["rule"] for row in self.rows):
            lines.append(_line(rule, [row for row in self.rows if row["rule"] == rule], threshold))
        lines.append(f"The most a job used / asked for, and means; a job a line: {os.path.relpath(path)}")
        return "\n".join(lines)


def _use(row: dict[str, Any], used: Mapping[str, float]) -> None:
    """Note what a job used. The node knows all starts, the accounting killed ones: the more counts."""
    seconds, memory = used.get("seconds", 0.0), used.get("mem_mb", 0.0)
    if seconds > 60 * (row["used_minutes"] or 0):
        row["used_minutes"] = round(seconds / 60, 2)
        percent = 100 * used.get("cpu_seconds", 0.0) / seconds
        row["used_cpu_percent"] = round(percent / max(1, row["asked_cpus"]), 1)
    if memory > (row["used_mem_mb"] or 0):
        row["used_mem_mb"] = round(memory, 1)
    row["used_gpu_percent"] = used.get("gpu_percent") or row["used_gpu_percent"]


def _line(rule: str, rows: list[dict[str, Any]], threshold: float) -> str:
    def values(name: str) -> list[float]:
        return [row[name] for row in rows if row[name] is not None]

    def most(used: str, asked: str) -> str:
        known = max(values(used), default=None)
        words = "?" if known is None else f"{known:.1f}" if known < 10 else f"{known:.0f}"
        return f"{words} / {max(values(asked), default='-')}"

    def percent(name: str) -> str:
        return f"{mean(values(name)):.0f}%" if values(name) else "-"

    cpu, memory = values("used_cpu_percent"), values("used_mem_mb")
    wasted = ["CPUs"] if cpu and mean(cpu) < 100 * threshold and max(values("asked_cpus")) > 1 else []
    enough = threshold * max(values("asked_mem_mb"), default=0)
    wasted += ["memory"] if memory and max(memory) < enough and enough > LITTLE_MB else []
    if max(values("used_minutes"), default=0) < BRIEF:
        wasted = []
    return (
        f"{rule:<24}{len(rows):>5}{most('used_minutes', 'asked_minutes'):>16}"
        f"{most('used_mem_mb', 'asked_mem_mb'):>18}{percent('used_cpu_percent'):>6}"
        f"{percent('used_gpu_percent'):>6}{'  asks for too much: ' * bool(wasted)}{', '.join(wasted)}"
    )


def error_message(words: str, logs: Sequence[Path]) -> str:
    """Return why a job failed, with the end of the first of its logs that says something."""
    lines = [f"{time.strftime('%H:%M:%S')} Error: {words}."]
    shown = False
    for log in logs:
        text = log_end(log, LOG_BYTES)
        said = _COMMANDS_WORDS.match(text)
        end = (said[1] if said else text).strip().splitlines()[-LOG_LINES:]
        lines.append(f"  log: {log}")
        lines += [f"    | {words[:200]}" for words in end if not shown]
        shown = shown or bool(end)
    return "\n".join(lines)


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def tidy(job: Job, keep_log: bool) -> None:
    """Remove what a job that succeeded leaves."""
    _remove(job.log, ["submitted.pkl", "submission.sh", *([] if keep_log else [LOG])])


def remove_old(folder: Path, days: int) -> None:
    """Remove logs of failed jobs, and what lies beside them, that were written so many days ago."""
    for log in folder.glob(f"*/*_{LOG}") if days > 0 else []:
        with suppress(OSError):
            if log.stat().st_mtime < time.time() - 86400 * days:
                _remove(log, [LOG])


def _remove(log: Path, endings: Sequence[str]) -> None:
    """Remove what the plugin keeps of a job beside its log, and files with `endings`."""
    for ending in ("0_result.pkl", "restarts.json", "stop", *endings):
        with suppress(OSError):
            log.with_name(log.name.removesuffix(LOG) + ending).unlink(missing_ok=True)
