"""Where jobs run: SLURM, or without it processes of this machine, or Snakemake's own process."""

from __future__ import annotations

import os
import pickle
import shutil
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import psutil
from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit import private
from snakemake_executor_plugin_submitit.jobs import Batch, Cluster, Prepared, State, paths
from snakemake_executor_plugin_submitit.progress import descendants, send
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.slurm import Slurm

FOREVER = 60 * 24 * 365  # minutes, where a rule has no limit
END = 5.0  # seconds a cancelled job has for writing its state


class Local(Cluster):
    """Processes below submitit's controller, which starts them again when they ask for it."""

    title = "local"

    def __init__(self, settings: ExecutorSettings) -> None:
        self._settings = settings
        self._jobs: dict[str, Any] = {}
        # submitit gives every job the first GPUs; which are free is for others to say.
        name = "CUDA_VISIBLE_DEVICES"
        self.environment = {name: os.environ.get(name)}

    def send(self, batch: Batch, run: str) -> str:  # noqa: ARG002
        """Start a controller with one job."""
        (one,) = batch.jobs
        executor = private.local_executor(one.folder)
        executor.update_parameters(
            timeout_min=one.request.minutes or FOREVER,
            gpus_per_node=one.request.gpus,
            signal_delay_s=one.request.stop_seconds(self._settings.stop_seconds),
            stderr_to_stdout=True,
        )
        job = executor.submit(one.command)
        self._jobs[job.job_id] = job
        return str(job.job_id)

    def look(self, job_ids: Iterable[str]) -> Mapping[str, State]:
        """Look for the processes."""
        return {job_id: State("RUNNING" if self._runs(job_id) else "ENDED") for job_id in job_ids}

    def _runs(self, job_id: str) -> bool:
        if job_id in self._jobs:
            return not self._jobs[job_id].done()
        with suppress(psutil.Error):  # of a Snakemake before this one
            return "submitit.local._local" in psutil.Process(int(job_id)).cmdline()
        return False

    def cancel(self, job_ids: Iterable[str], whole_arrays: Iterable[str] = ()) -> None:  # noqa: ARG002
        """End each controller's job, then whatever is left."""
        controllers = []
        for job_id in filter(self._runs, job_ids):
            with suppress(psutil.NoSuchProcess):
                controllers.append(psutil.Process(int(job_id)))
        below = [one for controller in controllers for one in descendants(controller.pid)]
        send(below, SIGTERM)
        psutil.wait_procs(below, END)
        send(controllers + [one for each in controllers for one in descendants(each.pid)], SIGKILL)


class Debug(Cluster):
    """No processes: jobs run one after the other while Snakemake asks how they are."""

    title = "debug"

    def __init__(self) -> None:
        self._waiting: dict[str, Prepared] = {}
        self._states: dict[str, State] = {}

    def send(self, batch: Batch, run: str) -> str:  # noqa: ARG002
        """Put a job into the queue."""
        (self._waiting[batch.token],) = batch.jobs
        self._states[batch.token] = State("PENDING")
        return batch.token

    def look(self, job_ids: Iterable[str]) -> Mapping[str, State]:  # noqa: ARG002
        """Run the next job, if one waits."""
        for token in list(self._waiting)[:1]:
            self._run(token, self._waiting.pop(token))
        return self._states

    def _run(self, token: str, one: Prepared) -> None:
        one.folder.mkdir(parents=True, exist_ok=True)
        variables = {"SUBMITIT_DEBUG_JOB_ID": token, "SUBMITIT_FOLDER": str(one.folder)}
        os.environ.update(variables)
        outcome: tuple[str, object]
        try:
            outcome = ("success", one.command())
        except BaseException:
            outcome = ("error", traceback.format_exc())
        finally:
            for name in variables:
                del os.environ[name]
        Path(paths(one.folder, token).result_pickle).write_bytes(pickle.dumps(outcome))
        self._states[token] = State("COMPLETED" if outcome[0] == "success" else "FAILED")

    def cancel(self, job_ids: Iterable[str], whole_arrays: Iterable[str] = ()) -> None:  # noqa: ARG002
        """Empty the queue; what runs is a child of Snakemake and ends with it."""
        self._waiting.clear()


def choose(settings: ExecutorSettings, stopping: Callable[[], bool]) -> Cluster:
    """Return the cluster that the settings name.

    Raises:
        WorkflowError: there is none of that name, or no SLURM here.
    """
    if settings.cluster == "local":
        return Local(settings)
    if settings.cluster == "debug":
        return Debug()
    if settings.cluster != "slurm":
        raise WorkflowError(f"--submitit-cluster is 'slurm', 'local' or 'debug', not {settings.cluster!r}.")
    if shutil.which("sbatch") is None:
        raise WorkflowError(
            "There is no SLURM here (no sbatch in PATH). Run where jobs are submitted, or with "
            "--submitit-cluster local."
        )
    return Slurm(settings, stopping)
