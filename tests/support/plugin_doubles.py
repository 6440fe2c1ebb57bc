"""Stand-ins for what the executor plugin talks to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from snakemake_executor_plugin_submitit.clusters import Cluster, State
from snakemake_executor_plugin_submitit.jobs import Batch, Job
from snakemake_executor_plugin_submitit.node import Command
from snakemake_executor_plugin_submitit.resources import request
from snakemake_executor_plugin_submitit.settings import ExecutorSettings


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
    arrays = 100

    def __init__(self, send: Callable[[Batch], str] | None = None) -> None:
        super().__init__(ExecutorSettings())
        self.queue: dict[str, State] | None = {}
        self.sent: list[int] = []  # sizes of what was sent
        self.restarted: list[str] = []
        self.cancelled: list[str] = []
        self.can_restart = True
        self._send = send or (lambda batch: str(len(self.sent)))

    def send(self, batch: Batch, run: str) -> str:
        self.sent.append(len(batch.jobs))
        return self._send(batch)

    def look(self, job_ids: Iterable[str]) -> Mapping[str, State] | None:
        return self.queue

    def restart(self, job_id: str) -> bool:
        self.restarted.append(job_id)
        return self.can_restart

    def cancel(self, job_ids: Iterable[str], whole_arrays: Iterable[str] = ()) -> None:
        self.cancelled += job_ids


def prepared(folder: Path, name: str = "a", **resources: Any) -> Job:
    """Make a job of rule `train` that asks for `resources`."""
    asked = request({"mem_mb": 4000, "runtime": 60, **resources}, 1)
    info = SubmittedJobInfo(SimpleNamespace(name=name))  # type: ignore[arg-type]
    command = Command("true", "train")
    return Job(info, "train", f"train {name}", name, "work", "asked", asked, folder, command)


def submitted(folder: Path, job_id: str = "7", **resources: Any) -> Job:
    """Make a job that the cluster has."""
    job = prepared(folder, **resources)
    job.info.external_jobid = job_id
    return job
