"""Stand-ins for what the executor plugin talks to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from snakemake_executor_plugin_submitit.batch import Prepared, Submitted
from snakemake_executor_plugin_submitit.cluster import Cluster
from snakemake_executor_plugin_submitit.command import Command
from snakemake_executor_plugin_submitit.parameters import Request, request
from snakemake_executor_plugin_submitit.queue import Seen
from snakemake_executor_plugin_submitit.registry import Print
from snakemake_executor_plugin_submitit.sbatch import paths


class Recorder:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def info(self, words: str) -> None:
        self.said.append(words)

    warning = error = info


class FakeCluster(Cluster):
    """Takes what `send` lets it take; its queue is a dictionary."""

    title = "SLURM"
    arrays = True

    def __init__(self, send: Callable[[Sequence[Command], str], str] | None = None) -> None:
        self.queue: dict[str, Seen] | None = {}
        self.sent: list[int] = []  # sizes of what was sent
        self.restarted: list[str] = []
        self.can_restart = True
        self._send = send or (lambda commands, token: str(len(self.sent)))

    def send(self, folder: Path, request: Request, commands: Sequence[Command], token: str, run: str) -> str:
        self.sent.append(len(commands))
        return self._send(commands, token)

    def look(self, job_ids: Iterable[str]) -> Mapping[str, Seen] | None:
        return self.queue

    def restart(self, job_id: str) -> bool:
        self.restarted.append(job_id)
        return self.can_restart

    def cancel(self, job_ids: Iterable[str], whole_arrays: Iterable[str] = ()) -> None:
        self.queue = {}


def prepared(folder: Path, name: str = "a", **resources: Any) -> Prepared:
    """Make a job of rule `train` that asks for `resources`."""
    asked = request({"mem_mb": 4000, "runtime": 60, **resources}, 1, "train")
    job = SimpleNamespace(name=name)
    return Prepared(job, "train", Print(name, "work", "request"), asked, folder, Command("true", "train"))


def submitted(folder: Path, job_id: str = "7") -> Submitted:
    """Make a job that the cluster has."""
    return Submitted(prepared(folder), job_id, Path(paths(folder, job_id).stdout), SimpleNamespace())  # type: ignore[arg-type]
