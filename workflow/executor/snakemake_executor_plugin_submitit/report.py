"""What jobs asked for and what they used: a table for people and a CSV file for programs."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from snakemake_executor_plugin_submitit.jobs import Cluster, Submitted
from snakemake_executor_plugin_submitit.verdict import Ended, log_end

LOG_LINES = 8  # of a failed job's log
COLUMNS = [
    *("job_id", "rule", "name", "state", "nodes", "starts"),
    *("asked_minutes", "asked_mem_mb", "asked_cpus", "asked_gpus"),
    *("used_minutes", "used_mem_mb", "used_cpu_percent", "used_gpu_percent"),
]


@dataclass
class Report:
    """Jobs that ended, a row each."""

    rows: list[dict[str, object]] = field(default_factory=list)

    def add(self, one: Submitted, ended: Ended) -> None:
        """Note a job with what its node measured; what is not known stays empty."""
        request = one.prepared.request
        row = dict.fromkeys(COLUMNS, None) | {
            "job_id": one.job_id,
            "rule": one.prepared.rule,
            "name": one.prepared.label,
            "state": ended.state or ("COMPLETED" if ended.success else "FAILED"),
            "nodes": ended.nodes or one.running,
            "starts": ended.used.get("starts"),
            "asked_minutes": request.minutes,
            "asked_mem_mb": request.mem_mb or None,
            "asked_cpus": request.cpus,
            "asked_gpus": request.gpus,
        }
        self.rows.append(row)
        self._use(row, ended.used)

    @staticmethod
    def _use(row: dict[str, object], used: Mapping[str, float]) -> None:
        seconds = used.get("seconds", 0.0)
        known = row["used_minutes"]
        # The node knows all starts of a job, the accounting one that was killed: more is nearer the truth.
        if seconds and (not isinstance(known, float) or seconds > 60 * known):
            row["used_minutes"] = round(seconds / 60, 2)
            cpus = row["asked_cpus"] if isinstance(row["asked_cpus"], int) else 1
            row["used_cpu_percent"] = round(100 * used.get("cpu_seconds", 0.0) / seconds / max(1, cpus), 1)
        memory = row["used_mem_mb"]
        if used.get("mem_mb", 0.0) > (memory if isinstance(memory, float) else 0.0):
            row["used_mem_mb"] = round(used["mem_mb"], 1)
        if used.get("gpu_percent"):
            row["used_gpu_percent"] = used["gpu_percent"]

    def finish(self, cluster: Cluster, path: Path, threshold: float) -> str:
        """Add what the cluster's accounting knows, write the CSV file and return the table."""
        accounted = cluster.used([str(row["job_id"]) for row in self.rows])
        for row in self.rows:
            self._use(row, accounted.get(str(row["job_id"]), {}))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        lines = [f"{'rule':<24}{'jobs':>5}{'minutes':>16}{'memory, MB':>18}{'CPU':>6}{'GPU':>6}"]
        for rule in dict.fromkeys(str(row["rule"]) for row in self.rows):
            lines.append(self._line(rule, [row for row in self.rows if row["rule"] == rule], threshold))
        return "\n".join(
            [*lines, f"The most a job used / asked for, and means; a job a line: {os.path.relpath(path)}"]
        )

    @staticmethod
    def _line(rule: str, rows: list[dict[str, object]], threshold: float) -> str:
        def numbers(name: str) -> list[float]:
            return [value for row in rows if isinstance(value := row[name], int | float)]

        def of(used: str, asked: str) -> str:
            most, limit = max(numbers(used), default=None), max(numbers(asked), default=None)
            known = "?" if most is None else f"{most:.1f}" if most < 10 else f"{most:.0f}"
            return f"{known} / {'-' if limit is None else f'{limit:.0f}'}"

        def percent(name: str) -> str:
            return f"{mean(values):.0f}%" if (values := numbers(name)) else "-"

        cpu, memory = numbers("used_cpu_percent"), numbers("used_mem_mb")
        asked = max(numbers("asked_mem_mb"), default=0.0)
        wasted = ["CPUs"] if cpu and mean(cpu) < 100 * threshold else []
        wasted += ["memory"] if memory and max(memory) < threshold * asked else []
        return (
            f"{rule:<24}{len(rows):>5}{of('used_minutes', 'asked_minutes'):>16}"
            f"{of('used_mem_mb', 'asked_mem_mb'):>18}{percent('used_cpu_percent'):>6}"
            f"{percent('used_gpu_percent'):>6}{'  asks for too much: ' * bool(wasted)}{', '.join(wasted)}"
        )


def error_message(words: str, logs: Sequence[Path]) -> str:
    """Return why a job failed, with the end of the first of its logs that says something."""
    lines = [f"{time.strftime('%H:%M:%S')} Error: {words}."]
    ends = {file: log_end(file, 4096).splitlines()[-LOG_LINES:] for file in logs}
    shown = next((file for file, end in ends.items() if any(words.strip() for words in end)), None)
    for file, end in ends.items():
        lines.append(f"  log: {file}")
        lines += [f"    | {words[:200]}" for words in end if file == shown]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Return a time for people to read."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def tidy(one: Submitted, keep_log: bool) -> None:
    """Remove what a job that succeeded leaves."""
    endings = ["submitted.pkl", "submission.sh", "0_result.pkl", "restarts.json", "stop"]
    for ending in endings if keep_log else [*endings, "0_log.out"]:
        with suppress(OSError):
            (one.prepared.folder / f"{one.paths.job_id}_{ending}").unlink(missing_ok=True)


def remove_old(folder: Path, days: int) -> None:
    """Remove logs of failed jobs, and what lies beside them, that were written so many days ago."""
    for log in folder.glob("*/*_0_log.out") if days > 0 else []:
        with suppress(OSError):
            if log.stat().st_mtime < time.time() - 86400 * days:
                for ending in ("0_log.out", "0_result.pkl", "restarts.json", "stop"):
                    log.with_name(log.name.replace("0_log.out", ending)).unlink(missing_ok=True)
