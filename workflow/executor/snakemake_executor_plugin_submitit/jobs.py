"""What the parts of the plugin hand to each other: jobs, their states, and a place where they run."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from submitit.core.utils import JobPaths

from snakemake_executor_plugin_submitit.node import Command
from snakemake_executor_plugin_submitit.resources import Request

if TYPE_CHECKING:
    from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

SOONEST = 1.0  # seconds between two looks at the queue while jobs come and go
LONGEST = 120.0  # seconds between two looks at a queue that is slow to answer
ENDED = frozenset({"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "ENDED", "FAILED", "NODE_FAIL"})
ENDED |= {"OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"}


class Fingerprint(NamedTuple):
    """What a job is: `key` says which (rule and outputs), the hashes whether it still is the same."""

    key: str  # of a group, those of its jobs with spaces
    work: str  # hash of what it does: command, parameters, inputs
    request: str  # hash of what it asks SLURM for


@dataclass(frozen=True)
class Prepared:
    """A job that can be submitted."""

    job: Any
    rule: str
    label: str  # rule and wildcards
    fingerprint: Fingerprint
    request: Request
    folder: Path
    command: Command

    def but(self, **parameters: Any) -> Prepared:
        """Return the same job with parameters of its request changed."""
        return replace(self, request=self.request.but(**parameters))


@dataclass
class Batch:
    """Jobs that ask for the same and go in one sbatch."""

    jobs: list[Prepared]
    tries: int = 0
    due: float = 0.0  # time.monotonic() of the next try
    token: str = field(default_factory=lambda: uuid4().hex[:16])

    def halves(self) -> list[Batch]:
        """Return two smaller batches."""
        half = (len(self.jobs) + 1) // 2
        return [Batch(part, self.tries) for part in (self.jobs[:half], self.jobs[half:]) if part]


def group(jobs: Iterable[Prepared], size: int) -> list[Batch]:
    """Put jobs that ask for the same into batches of at most `size`, in order."""
    by_request: dict[tuple[str, str], list[Prepared]] = {}
    for job in jobs:
        by_request.setdefault((str(job.folder), job.request.key), []).append(job)
    return [
        Batch(same[start : start + size])
        for same in by_request.values()
        for start in range(0, len(same), max(1, size))
    ]


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

    @property
    def ending(self) -> bool:
        """Whether it has ended or is about to."""
        return self.ended or self.name == "COMPLETING"


@dataclass
class Submitted:
    """A job that the cluster has."""

    prepared: Prepared
    job_id: str
    info: SubmittedJobInfo
    since: float = field(default_factory=time.monotonic)
    running: str = ""  # the nodes where it was last seen to run
    gone_since: float | None = None  # since when it ended, or is unknown, without a result
    ask_after: float = 0.0  # seconds of that after which the accounting is asked (again)
    pending: tuple[str, float] = ("", 0.0)  # the reason why it waits, and since when
    complaint: str = ""  # what its node said in the comment, as far as it was passed on

    @property
    def paths(self) -> JobPaths:
        """Where submitit keeps its files."""
        return paths(self.prepared.folder, self.job_id)

    @property
    def log(self) -> Path:
        """What it printed."""
        return Path(self.paths.stdout)

    def ask_accounting(self) -> bool:
        """Return whether to ask the accounting about this job, which the queue does not show."""
        gone = 0.0 if self.gone_since is None else time.monotonic() - self.gone_since
        if gone < self.ask_after:
            return False
        self.ask_after = gone + 10
        return True


def paths(folder: Path, job_id: str) -> JobPaths:
    """Return where submitit keeps a job's files."""
    return JobPaths(folder, job_id=job_id.split("@", maxsplit=1)[0], task_id=0)


class SubmissionError(Exception):
    """A cluster did not take a job.

    `never` if it never will, `limit` if a policy holds it back until others have ended, `smaller` if a
    smaller array may pass.
    """

    def __init__(self, message: str, never: bool = False, limit: bool = False, smaller: bool = False) -> None:
        super().__init__(message)
        self.never, self.limit, self.smaller = never, limit, smaller


class Cluster(ABC):
    """Takes jobs, says how they are and ends them. Ids are `JOB[_TASK][@CLUSTER]`."""

    title: str  # what messages call it
    arrays = 1  # how many jobs can go at once
    dependencies = False  # whether a job can wait for the end of another one
    trouble = ""  # why the last question was not answered
    seconds = 0.0  # that the last answer took
    environment: Mapping[str, str | None] = {}  # variables its jobs need; None: unset

    @abstractmethod
    def send(self, batch: Batch, run: str) -> str:
        """Submit jobs for the Snakemake named `run` and return the id of the job or array.

        Raises:
            SubmissionError: it was not taken.
        """

    @abstractmethod
    def look(self, job_ids: Iterable[str]) -> Mapping[str, State] | None:
        """Return the state of jobs, at least of the known ones of `job_ids`; None if it cannot be told."""

    def remembered(self, job_ids: Sequence[str]) -> Mapping[str, State]:  # noqa: ARG002
        """Return the state of jobs that `look` does not know any more."""
        return {}

    def restart(self, job_id: str) -> bool:  # noqa: ARG002
        """Start a job that ended again, under its id; return whether that was possible."""
        return False

    @abstractmethod
    def cancel(self, job_ids: Iterable[str], whole_arrays: Iterable[str] = ()) -> None:
        """End jobs; of `whole_arrays` every task may be ended."""

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
    if index is None:
        return job_id
    number, at, cluster = job_id.partition("@")
    return f"{number}_{index}{at}{cluster}"


def array_of(job_id: str) -> str:
    """Return the id of the array that a task belongs to."""
    number, at, cluster = job_id.partition("@")
    return f"{number.split('_')[0]}{at}{cluster}"


def pause(quiet: float, longest: float, answer_took: float) -> float:
    """Return how many seconds to wait before the next look: longer and longer when nothing happens.

    A queue that is slow to answer is asked at most a tenth of the time. One that does not answer says nothing
    about that, and its return shall not go unnoticed for minutes.
    """
    return max(min(longest, max(SOONEST, quiet / 10)), min(10 * answer_took, LONGEST))
