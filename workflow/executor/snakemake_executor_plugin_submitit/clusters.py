"""Where jobs run: SLURM, processes of this machine, or Snakemake's own process."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any, Protocol

from submitit.core.utils import DelayedSubmission
from submitit.local.debug import DebugExecutor
from submitit.local.local import LocalExecutor, LocalJob

from snakemake_executor_plugin_submitit import processes, queue
from snakemake_executor_plugin_submitit.command import Command
from snakemake_executor_plugin_submitit.parameters import Request
from snakemake_executor_plugin_submitit.queue import Queue, Seen
from snakemake_executor_plugin_submitit.sbatch import Sbatch, paths
from snakemake_executor_plugin_submitit.settings import ExecutorSettings

FOREVER = 60 * 24 * 365  # minutes, where a rule has no limit


class Cluster(Protocol):
    """What the executor needs of a cluster."""

    title: str  # what error messages call it
    arrays: bool  # whether several jobs can go at once

    def send(
        self, folder: Path, request: Request, commands: Sequence[Command], token: str, comment: str
    ) -> str:
        """Submit and return the id of the job or array."""

    def look(self, job_ids: Iterable[str]) -> Mapping[str, Seen] | None:
        """Return the state of at least those of `job_ids` that are known, None if that cannot be told now."""

    def remembered(self, job_ids: Sequence[str]) -> Mapping[str, Seen]:
        """Return the state of jobs that `look` does not know any more."""

    def restart(self, job_id: str) -> bool:
        """Start an ended job again under its id, if that can be done."""

    def cancel(self, job_ids: Iterable[str], whole_arrays: Iterable[str]) -> None:
        """End jobs."""


class Slurm:
    """SLURM, through submitit's batch files."""

    title = "SLURM"
    arrays = True

    def __init__(self, settings: ExecutorSettings, asking: Queue) -> None:
        self._settings = settings
        self._queue = asking

    def send(
        self, folder: Path, request: Request, commands: Sequence[Command], token: str, comment: str
    ) -> str:
        settings = self._settings
        stop_seconds = request.stop_seconds(settings.stop_seconds)
        sbatch = Sbatch(folder, request, comment, stop_seconds, requeue=not settings.no_requeue)
        return sbatch.send(commands, token)

    def look(self, job_ids: Iterable[str]) -> Mapping[str, Seen] | None:  # noqa: ARG002
        return self._queue.look()

    def remembered(self, job_ids: Sequence[str]) -> Mapping[str, Seen]:
        return self._queue.remembered(job_ids)

    def restart(self, job_id: str) -> bool:
        done = subprocess.run(["scontrol", "requeue", job_id], capture_output=True, timeout=60, check=False)
        return done.returncode == 0

    def cancel(self, job_ids: Iterable[str], whole_arrays: Iterable[str]) -> None:
        queue.cancel(job_ids, whole_arrays)


class _Local(LocalExecutor):
    @property
    def _submitit_command_str(self) -> str:
        return f"{sys.executable} -u -m snakemake_executor_plugin_submitit.node {self.folder}"


class Local:
    """Processes of this machine with submitit's controller, which restarts them at their time limit."""

    title = "local"
    arrays = False

    def __init__(self, settings: ExecutorSettings) -> None:
        self._settings = settings
        self._jobs: dict[str, LocalJob[Any]] = {}

    def send(
        self, folder: Path, request: Request, commands: Sequence[Command], token: str, comment: str
    ) -> str:  # noqa: ARG002
        executor = _Local(folder)
        executor._throttling = 0
        executor.update_parameters(
            timeout_min=request.minutes or FOREVER,
            gpus_per_node=request.gpus,
            signal_delay_s=request.stop_seconds(self._settings.stop_seconds),
            stderr_to_stdout=True,
        )
        (command,) = commands
        job: LocalJob[Any] = executor.submit(command)
        self._jobs[job.job_id] = job
        return job.job_id

    def look(self, job_ids: Iterable[str]) -> Mapping[str, Seen] | None:
        return {job_id: Seen("RUNNING" if self._runs(job_id) else "ENDED") for job_id in job_ids}

    def _runs(self, job_id: str) -> bool:
        job = self._jobs.get(job_id)
        if job is not None:
            return not job.done()
        try:  # of a Snakemake before this one
            return b"submitit.local._local" in Path(f"/proc/{job_id}/cmdline").read_bytes()
        except OSError:
            return False

    def remembered(self, job_ids: Sequence[str]) -> Mapping[str, Seen]:  # noqa: ARG002
        return {}

    def restart(self, job_id: str) -> bool:  # noqa: ARG002
        return False

    def cancel(self, job_ids: Iterable[str], whole_arrays: Iterable[str]) -> None:  # noqa: ARG002
        controllers = [int(job_id) for job_id in job_ids if self._runs(job_id)]
        below = [pid for controller in controllers for pid in processes.descendants(controller)]
        processes.send(below, SIGTERM)
        until = time.monotonic() + 3
        while time.monotonic() < until and any(processes.descendants(one) for one in controllers):
            time.sleep(0.1)
        left = [pid for controller in controllers for pid in processes.descendants(controller)]
        processes.send(controllers + left, SIGKILL)


class Debug:
    """No processes: jobs run one after the other while Snakemake asks how they are."""

    title = "debug"
    arrays = False

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[Path, Command]] = {}
        self._states: dict[str, Seen] = {}

    def send(
        self, folder: Path, request: Request, commands: Sequence[Command], token: str, comment: str
    ) -> str:  # noqa: ARG002
        (command,) = commands
        job_id = DebugExecutor(folder).submit(command).job_id + f"_{token}"
        folder.mkdir(parents=True, exist_ok=True)
        self._waiting[job_id] = (folder, command)
        self._states[job_id] = Seen("PENDING")
        return job_id

    def look(self, job_ids: Iterable[str]) -> Mapping[str, Seen] | None:  # noqa: ARG002
        if self._waiting:
            job_id = next(iter(self._waiting))
            self._run(job_id, *self._waiting.pop(job_id))
        return self._states

    def _run(self, job_id: str, folder: Path, command: Command) -> None:
        os.environ.update(
            SUBMITIT_DEBUG_JOB_ID=job_id, SUBMITIT_FOLDER=str(folder), SUBMITIT_EXECUTOR="debug"
        )
        try:
            outcome = ("success", DelayedSubmission(command).result())
        except BaseException:
            outcome = ("error", traceback.format_exc())
        finally:
            for name in ("SUBMITIT_DEBUG_JOB_ID", "SUBMITIT_FOLDER", "SUBMITIT_EXECUTOR"):
                os.environ.pop(name)
        Path(paths(folder, job_id).result_pickle).write_bytes(pickle.dumps(outcome))
        self._states[job_id] = Seen("COMPLETED" if outcome[0] == "success" else "FAILED")

    def remembered(self, job_ids: Sequence[str]) -> Mapping[str, Seen]:  # noqa: ARG002
        return {}

    def restart(self, job_id: str) -> bool:  # noqa: ARG002
        return False

    def cancel(self, job_ids: Iterable[str], whole_arrays: Iterable[str]) -> None:  # noqa: ARG002
        self._waiting.clear()
