"""Places where jobs run: what they have in common, processes of this machine, Snakemake's own process."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import psutil

from snakemake_executor_plugin_submitit import private
from snakemake_executor_plugin_submitit.jobs import Batch, Job, paths
from snakemake_executor_plugin_submitit.progress import descendants, send
from snakemake_executor_plugin_submitit.resources import Request
from snakemake_executor_plugin_submitit.settings import ExecutorSettings

FOREVER = 60 * 24 * 365  # minutes, where a rule has no limit
END = 5.0  # seconds a cancelled job has for writing its state
SOONEST = 1.0  # seconds between two looks at the queue while jobs come and go
LONGEST = 120.0  # seconds between two looks at a queue that is slow to answer
ENDED = frozenset({"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "ENDED", "FAILED", "NODE_FAIL"})
ENDED |= {"OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"}


@dataclass(frozen=True)
class State:
    """A job as the cluster describes it."""

    name: str  # RUNNING, PENDING, ...
    reason: str = ""  # why it waits, or what ended it
    nodes: str = ""
    comment: str = ""
    start: str = ""  # when it began or, as far as is known, will

    @property
    def ended(self) -> bool:
        """Whether the cluster is done with it, unless somebody requeues it."""
        return self.name in ENDED


class SubmissionError(Exception):
    """A cluster did not take a job.

    `never` if it never will, `limit` if a policy holds it back until others have ended, `smaller` if a
    smaller array may pass.
    """

    def __init__(self, message: str, never: bool = False, limit: bool = False, smaller: bool = False) -> None:
        super().__init__(message)
        self.never, self.limit, self.smaller = never, limit, smaller


class Cluster:
    """Takes jobs, says how they are and ends them. Ids are `JOB[_TASK][@CLUSTER]`."""

    title: str  # what messages call it
    arrays = 1  # how many jobs can go at once
    trouble = ""  # why the last question was not answered
    patience = 60.0  # seconds for an answer
    seconds = 0.0  # that the last answer took

    def __init__(self, settings: ExecutorSettings) -> None:
        self._settings = settings

    def send(self, batch: Batch, run: str) -> str:
        """Submit jobs for the Snakemake named `run` and return the id of the job or array.

        Raises:
            SubmissionError: it was not taken.
        """
        raise NotImplementedError

    def look(self, job_ids: Iterable[str]) -> Mapping[str, State] | None:
        """Return the state of jobs, at least of the known ones of `job_ids`; None if it cannot be told."""
        raise NotImplementedError

    def pause(self, quiet: float, longest: float) -> float:
        """Return how many seconds to wait before the next look: longer and longer when nothing happens.

        A queue that is slow to answer is asked at most a tenth of the time. One that does not answer says
        nothing about that, and its return shall not go unnoticed for minutes.
        """
        return max(min(longest, max(SOONEST, quiet / 10)), min(10 * self.seconds, LONGEST))

    def cancel(self, job_ids: Iterable[str], whole_arrays: Iterable[str] = ()) -> None:
        """End jobs; of `whole_arrays` every task may be ended."""
        raise NotImplementedError

    def remembered(self, job_ids: Sequence[str]) -> Mapping[str, State]:  # noqa: ARG002
        """Return the state of jobs that `look` does not know any more."""
        return {}

    def restart(self, job_id: str) -> bool:  # noqa: ARG002
        """Start a job that ended again, under its id; return whether that was possible."""
        return False

    def longest(self, request: Request) -> float:  # noqa: ARG002
        """Return the minutes that the partition of `request` allows, as far as is known."""
        return float("inf")

    def place_in_queue(self, job_id: str) -> str:  # noqa: ARG002
        """Return how many jobs are before a waiting one, in words."""
        return ""

    def used(self, job_ids: Sequence[str]) -> Mapping[str, Mapping[str, float]]:  # noqa: ARG002
        """Return what ended jobs used, as far as the cluster keeps accounts."""
        return {}


def task(job_id: str, index: int | None) -> str:
    """Return the id of an array's task; of no array, the job's own."""
    number, at, cluster = job_id.partition("@")
    return job_id if index is None else f"{number}_{index}{at}{cluster}"


def array_of(job_id: str) -> str:
    """Return the id of the array that a task belongs to."""
    number, at, cluster = job_id.partition("@")
    return f"{number.partition('_')[0]}{at}{cluster}"


class Local(Cluster):
    """Processes below submitit's controller, which starts them again when they ask for it."""

    title = "local"

    def __init__(self, settings: ExecutorSettings) -> None:
        super().__init__(settings)
        self._jobs: dict[str, Any] = {}

    def send(self, batch: Batch, run: str) -> str:  # noqa: ARG002
        (one,) = batch.jobs
        executor = private.local_executor(one.folder)
        executor.update_parameters(
            timeout_min=one.request.minutes or FOREVER,
            signal_delay_s=one.request.stop_seconds(self._settings.stop_seconds),
            stderr_to_stdout=True,
        )
        job = executor.submit(one.command)
        self._jobs[job.job_id] = job
        return str(job.job_id)

    def look(self, job_ids: Iterable[str]) -> Mapping[str, State]:
        return {job_id: State("RUNNING" if self._runs(job_id) else "ENDED") for job_id in job_ids}

    def _runs(self, job_id: str) -> bool:
        if job_id in self._jobs:
            return not self._jobs[job_id].done()
        with suppress(psutil.Error):  # of a Snakemake before this one
            return "submitit.local._local" in psutil.Process(int(job_id)).cmdline()
        return False

    def cancel(self, job_ids: Iterable[str], whole_arrays: Iterable[str] = ()) -> None:  # noqa: ARG002
        controllers = []
        for job_id in filter(self._runs, job_ids):
            with suppress(psutil.NoSuchProcess):
                controllers.append(psutil.Process(int(job_id)))
        below = [one for controller in controllers for one in descendants(controller.pid)]
        send(below, SIGTERM)
        psutil.wait_procs(below, END)
        send(controllers + [one for each in controllers for one in descendants(each.pid)], SIGKILL)


class Debug(Cluster):
    """Snakemake's own process: jobs run one after the other while Snakemake asks how they are."""

    title = "debug"

    def __init__(self, settings: ExecutorSettings) -> None:
        super().__init__(settings)
        self._states: dict[str, State] = {}
        self._waiting: dict[str, Job] = {}

    def send(self, batch: Batch, run: str) -> str:  # noqa: ARG002
        (self._waiting[batch.token],) = batch.jobs
        self._states[batch.token] = State("PENDING")
        return batch.token

    def look(self, job_ids: Iterable[str]) -> Mapping[str, State]:  # noqa: ARG002
        for token in list(self._waiting)[:1]:
            self._run(token, self._waiting.pop(token))
        return self._states

    def _run(self, token: str, one: Job) -> None:
        one.folder.mkdir(parents=True, exist_ok=True)
        os.environ |= {"SUBMITIT_DEBUG_JOB_ID": token, "SUBMITIT_FOLDER": str(one.folder)}
        try:
            outcome: tuple[str, object] = ("success", one.command())
        except (Exception, SystemExit) as error:  # the latter is how a command asks to be started again
            outcome = ("error", f"{type(error).__name__}: {error}")
        finally:
            del os.environ["SUBMITIT_DEBUG_JOB_ID"], os.environ["SUBMITIT_FOLDER"]
        Path(paths(one.folder, token).result_pickle).write_bytes(pickle.dumps(outcome))
        self._states[token] = State("COMPLETED" if outcome[0] == "success" else "FAILED")

    def cancel(self, job_ids: Iterable[str], whole_arrays: Iterable[str] = ()) -> None:  # noqa: ARG002
        self._waiting.clear()  # what runs is a child of Snakemake and ends with it
