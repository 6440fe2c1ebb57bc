"""Places without SLURM where jobs run: processes of this machine, and Snakemake's own process."""

from __future__ import annotations

import os
import pickle
import shlex
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import cast

from submitit.local.local import LocalExecutor, LocalJob

from snakemake_executor_plugin_submitit import processes
from snakemake_executor_plugin_submitit.cluster import Cluster
from snakemake_executor_plugin_submitit.command import Command
from snakemake_executor_plugin_submitit.parameters import Request
from snakemake_executor_plugin_submitit.queue import Seen
from snakemake_executor_plugin_submitit.sbatch import paths
from snakemake_executor_plugin_submitit.settings import ExecutorSettings

FOREVER = 60 * 24 * 365  # minutes, where a rule has no limit
END = 5.0  # seconds a cancelled job has for writing its state


class _Submitter(LocalExecutor):
    @property
    def _submitit_command_str(self) -> str:
        folder = shlex.quote(str(self.folder))
        return f"{self.python} -u -m snakemake_executor_plugin_submitit.node {folder}"


class Local(Cluster):
    """Processes below submitit's controller, which starts them again when they ask for it."""

    title = "local"

    def __init__(self, settings: ExecutorSettings) -> None:
        self._settings = settings
        self._jobs: dict[str, LocalJob[str]] = {}
        # submitit gives every job the first GPUs; which are free is for others to say.
        name = "CUDA_VISIBLE_DEVICES"
        self.environment = {name: os.environ.get(name)}

    def send(self, folder: Path, request: Request, commands: Sequence[Command], token: str, run: str) -> str:
        """Start a controller with one job."""
        del token, run  # by which SLURM's queue finds a job again
        executor = _Submitter(folder)
        executor._throttling = 0
        executor.update_parameters(
            timeout_min=request.minutes or FOREVER,
            gpus_per_node=request.gpus,
            signal_delay_s=request.stop_seconds(self._settings.stop_seconds),
            stderr_to_stdout=True,
        )
        (command,) = commands
        job = cast("LocalJob[str]", executor.submit(command))
        self._jobs[job.job_id] = job
        return job.job_id

    def look(self, job_ids: Iterable[str]) -> Mapping[str, Seen] | None:
        """Look for the processes."""
        return {job_id: Seen("RUNNING" if self._runs(job_id) else "ENDED") for job_id in job_ids}

    def _runs(self, job_id: str) -> bool:
        job = self._jobs.get(job_id)
        if job is not None:
            return not job.done()
        try:  # of a Snakemake before this one
            return b"submitit.local._local" in Path(f"/proc/{job_id}/cmdline").read_bytes()
        except OSError:
            return False

    def cancel(self, job_ids: Iterable[str], whole_arrays: Iterable[str] = ()) -> None:  # noqa: ARG002
        """End each controller's job, then whatever is left."""
        controllers = [int(job_id) for job_id in job_ids if self._runs(job_id)]
        processes.send([pid for one in controllers for pid in processes.descendants(one)], SIGTERM)
        until = time.monotonic() + END
        while time.monotonic() < until and any(processes.descendants(one) for one in controllers):
            time.sleep(0.1)
        left = [pid for one in controllers for pid in processes.descendants(one)]
        processes.send(controllers + left, SIGKILL)


class Debug(Cluster):
    """No processes: jobs run one after the other while Snakemake asks how they are."""

    title = "debug"
    logs = False

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[Path, Command]] = {}
        self._states: dict[str, Seen] = {}

    def send(self, folder: Path, request: Request, commands: Sequence[Command], token: str, run: str) -> str:
        """Put a job into the queue."""
        del request, run
        (self._waiting[token],) = [(folder, command) for command in commands]
        self._states[token] = Seen("PENDING")
        return token

    def look(self, job_ids: Iterable[str]) -> Mapping[str, Seen] | None:  # noqa: ARG002
        """Run the next job, if one waits."""
        if self._waiting:
            token = next(iter(self._waiting))
            self._run(token, *self._waiting.pop(token))
        return self._states

    def _run(self, token: str, folder: Path, command: Command) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        variables = {"SUBMITIT_DEBUG_JOB_ID": token, "SUBMITIT_FOLDER": str(folder)}
        os.environ.update(variables)
        try:
            outcome = ("success", command())
        except BaseException:
            outcome = ("error", traceback.format_exc())
        finally:
            for name in variables:
                del os.environ[name]
        Path(paths(folder, token).result_pickle).write_bytes(pickle.dumps(outcome))
        self._states[token] = Seen("COMPLETED" if outcome[0] == "success" else "FAILED")

    def cancel(self, job_ids: Iterable[str], whole_arrays: Iterable[str] = ()) -> None:  # noqa: ARG002
        """Empty the queue; what runs is a child of Snakemake and ends with it."""
        self._waiting.clear()
