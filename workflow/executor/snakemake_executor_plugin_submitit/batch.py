"""Jobs on their way to the cluster, and those that are there."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from snakemake_executor_plugin_submitit.command import Command
from snakemake_executor_plugin_submitit.parameters import Request
from snakemake_executor_plugin_submitit.registry import Print

LONGEST_WAIT = 60.0  # seconds between two tries of a failed sbatch


@dataclass(frozen=True)
class Prepared:
    """A job that can be submitted."""

    job: Any
    rule: str
    print: Print
    request: Request
    folder: Path
    command: Command

    def after(self, job_id: str) -> Prepared:
        """Return the same job, to be started once another has ended."""
        parameters = {**self.request.parameters, "dependency": f"afterany:{job_id}"}
        return replace(self, request=replace(self.request, parameters=parameters))


@dataclass
class Batch:
    """Jobs that ask for the same and go in one sbatch."""

    jobs: list[Prepared]
    tries: int = 0
    due: float = 0.0  # time.monotonic() of the next try
    token: str = field(default_factory=lambda: uuid4().hex[:16])

    def later(self) -> list[Batch]:
        """Return what to try after a pause that doubles: halves, as a limit may let a smaller array pass."""
        pause = min(LONGEST_WAIT, 2.0**self.tries)
        half = (len(self.jobs) + 1) // 2
        parts = [part for part in (self.jobs[:half], self.jobs[half:]) if part]
        return [Batch(part, self.tries, time.monotonic() + pause) for part in parts]


@dataclass
class Submitted:
    """A job that the cluster has."""

    prepared: Prepared
    job_id: str
    log: Path
    info: SubmittedJobInfo
    gone_since: float | None = (
        None  # since when the cluster says it ended, or does not know it, without a result
    )
    ask_after: float = 0.0  # seconds of that after which the accounting is asked (again)
    warned: str = ""  # the reason for waiting that the user was told

    def ask_elsewhere(self) -> bool:
        """Return whether to ask the accounting about this job, which squeue does not show."""
        gone = 0.0 if self.gone_since is None else time.monotonic() - self.gone_since
        if gone < self.ask_after:
            return False
        self.ask_after = gone + 10
        return True


def group(jobs: list[Prepared], size: int) -> list[Batch]:
    """Put jobs that ask for the same into batches of at most `size`, in order."""
    by_request: dict[tuple[str, str], list[Prepared]] = {}
    for job in jobs:
        by_request.setdefault((str(job.folder), job.request.key), []).append(job)
    return [
        Batch(same[start : start + size])
        for same in by_request.values()
        for start in range(0, len(same), max(1, size))
    ]
