"""What the executor needs of a place where jobs run, and the first such place: SLURM."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from snakemake_executor_plugin_submitit.command import Command
from snakemake_executor_plugin_submitit.parameters import Request
from snakemake_executor_plugin_submitit.queue import Queue, Seen, cancel
from snakemake_executor_plugin_submitit.sbatch import Sbatch
from snakemake_executor_plugin_submitit.settings import ExecutorSettings


class Cluster(ABC):
    """Takes jobs, says how they are and ends them."""

    title: str  # what messages call it
    arrays = False  # whether several jobs can go at once
    logs = True  # whether what a job prints goes to a file
    environment: Mapping[str, str | None] = {}  # variables its jobs need; None: unset

    @abstractmethod
    def send(self, folder: Path, request: Request, commands: Sequence[Command], token: str, run: str) -> str:
        """Submit jobs that ask for `request` and return the id of the job or array.

        Args:
            folder: for pickles and logs.
            request: resources of each.
            commands: one, or several where `arrays` is true.
            token: unique name of this submission.
            run: name of this Snakemake.
        """

    @abstractmethod
    def look(self, job_ids: Iterable[str]) -> Mapping[str, Seen] | None:
        """Return the state of jobs, at least of the known ones of `job_ids`; None if it cannot be told."""

    def remembered(self, job_ids: Sequence[str]) -> Mapping[str, Seen]:  # noqa: ARG002
        """Return the state of jobs that `look` does not know any more."""
        return {}

    def restart(self, job_id: str) -> bool:  # noqa: ARG002
        """Start a job that ended again, under its id; return whether that was possible."""
        return False

    @abstractmethod
    def cancel(self, job_ids: Iterable[str], whole_arrays: Iterable[str] = ()) -> None:
        """End jobs; of `whole_arrays` every task may be ended."""


class Slurm(Cluster):
    """SLURM, through submitit's batch files."""

    title = "SLURM"
    arrays = True

    def __init__(self, settings: ExecutorSettings, queue: Queue) -> None:
        self._settings = settings
        self._queue = queue

    def send(self, folder: Path, request: Request, commands: Sequence[Command], token: str, run: str) -> str:
        """Call sbatch."""
        stop_seconds = request.stop_seconds(self._settings.stop_seconds)
        comment = f"snakemake {run} {token}"
        sbatch = Sbatch(folder, request, comment, stop_seconds, requeue=not self._settings.no_requeue)
        return sbatch.send(commands, token)

    def look(self, job_ids: Iterable[str]) -> Mapping[str, Seen] | None:  # noqa: ARG002
        """Call squeue, once for all."""
        return self._queue.look()

    def remembered(self, job_ids: Sequence[str]) -> Mapping[str, Seen]:
        """Call sacct."""
        return self._queue.remembered(job_ids)

    def restart(self, job_id: str) -> bool:
        """Call scontrol, which also requeues what has ended as long as the controller knows it."""
        done = subprocess.run(["scontrol", "requeue", job_id], capture_output=True, timeout=60, check=False)
        return done.returncode == 0

    def cancel(self, job_ids: Iterable[str], whole_arrays: Iterable[str] = ()) -> None:
        """Call scancel."""
        cancel(job_ids, whole_arrays)
