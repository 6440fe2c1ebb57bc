"""A job of Snakemake -> what is submitted."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.utils import format_cli_arg
from submitit.core.utils import JobPaths

from snakemake_executor_plugin_submitit import private
from snakemake_executor_plugin_submitit.node import Command
from snakemake_executor_plugin_submitit.resources import (
    Request,
    ResourceError,
    best_partition,
    read_partitions,
    request,
)
from snakemake_executor_plugin_submitit.settings import ExecutorSettings

MANY_INPUTS = 20  # names of more files than this go through a file


@dataclass
class Job:
    """A job of Snakemake: what is submitted and, from then on, what is known of it."""

    info: SubmittedJobInfo  # Snakemake's job and, once it is submitted, its id
    rule: str
    label: str  # rule and wildcards
    key: str  # says which job it is, by rule and outputs; of a group, those of its jobs with spaces
    work: str  # hash of what it does: command, parameters, inputs
    asked: str  # hash of the resources that its rule asks for
    request: Request
    folder: Path
    command: Command
    since: float = 0.0  # time.monotonic() of its submission
    running: str = ""  # the nodes where it was last seen to run
    gone_since: float | None = None  # since when it ended, or is unknown, without a result
    pending: tuple[str, float] = ("", 0.0)  # the reason why it waits, and since when
    complaint: str = ""  # what its node said in the comment, as far as it was passed on

    @property
    def job_id(self) -> str:
        return self.info.external_jobid or ""

    @property
    def paths(self) -> JobPaths:
        return paths(self.folder, self.job_id)

    @property
    def log(self) -> Path:
        return Path(self.paths.stdout)

    def asking(self, **parameters: Any) -> Job:
        return replace(self, request=self.request.but(**parameters))

    def line(self, words: str) -> str:
        return f"{time.strftime('%H:%M:%S')} {self.label}: {words}"


@dataclass
class Batch:
    """Jobs that ask for the same and go in one sbatch."""

    jobs: list[Job]
    tries: int = 0
    due: float = 0.0  # time.monotonic() of the next try
    token: str = field(default_factory=lambda: uuid4().hex[:16])


def group(jobs: Iterable[Job], size: int) -> list[Batch]:
    """Put jobs that ask for the same into batches of at most `size`, in order."""
    by_request: dict[tuple[Path, str], list[Job]] = {}
    for job in jobs:
        by_request.setdefault((job.folder, job.request.key), []).append(job)
    return [
        Batch(same[start : start + size])
        for same in by_request.values()
        for start in range(0, len(same), size)
    ]


class Preparation:
    """Makes jobs ready to be submitted."""

    def __init__(
        self, folder: Path, longest: Callable[[Request], float], settings: ExecutorSettings, logger: Any
    ) -> None:
        """Jobs leave their logs below `folder`; `longest` says how many minutes a partition allows."""
        self._folder, self._longest, self._settings, self._logger = folder, longest, settings, logger
        path = settings.partition_config or os.environ.get("SNAKEMAKE_SLURM_PARTITIONS")
        self._partitions = read_partitions(Path(path)) if path else None
        self._bad_nodes: dict[str, set[str]] = {}  # where a job failed
        self._shortened: set[str] = set()

    def __call__(self, job: Any, shell: str) -> Job:
        """Return what to submit for `job`, which runs by the command `shell`.

        Raises:
            ResourceError: it asks for what cannot be had.
        """
        settings, rule, label = self._settings, str(job.name), private.label(job)
        parts = private.single_jobs(job)
        key = " ".join(map(private.key, parts))
        resources = dict(job.resources.items())
        wanted = request(resources, job.threads)
        if self._partitions and "partition" not in wanted.options:
            wanted = wanted.but(partition=best_partition(self._partitions, resources, job.threads))
        asked = private.digest([wanted.key])
        progress = str(resources.get("progress") or "")
        if "{" in progress:  # it would be looked for in vain
            raise ResourceError(
                f"The rule '{rule}' has progress=\"{progress}\", but Snakemake fills wildcards into a "
                "resource only where it is a function; write it as `lambda wildcards: ...`."
            )
        if progress and not settings.no_requeue:
            wanted = self._within_limit(wanted, rule)
        nodes = {*settings.exclude_failed_nodes.split(","), *self._bad_nodes.get(key, ())} - {""}
        if nodes:
            wanted = wanted.but(exclude=",".join(sorted(nodes)))
        command = Command(
            shell.replace(" -m snakemake ", f" -m {private.__name__} ", 1),
            name=rule,
            label=settings.name_prefix + label,
            stop_seconds=wanted.stop_seconds(settings.stop_seconds),
            stop_variables=tuple(re.findall(r"[^,\s]+", settings.stop_variables)),
            progress=progress,
            stalled_restarts=settings.stalled_restarts,
            requeue=not settings.no_requeue,
            minutes=wanted.minutes,
        )
        folder = self._folder / re.sub(r"[^\w.-]", "_", f"{rule}@{wanted.cluster}".rstrip("@"))
        work = private.digest(map(private.work, parts))
        return Job(SubmittedJobInfo(job), rule, label, key, work, asked, wanted, folder, command)

    def failed(self, job: Job, nodes: str) -> None:
        """Note where a job failed: its retries go elsewhere."""
        if nodes and "[" not in nodes and "?" not in nodes:  # of several nodes nobody knows which one it was
            self._bad_nodes.setdefault(job.key, set()).update(nodes.split(","))

    def _within_limit(self, wanted: Request, rule: str) -> Request:
        """Shorten a job that shows its progress to what its partition allows: it goes on in another start."""
        if not wanted.minutes or "qos" in wanted.options:
            return wanted
        limit = self._longest(wanted)
        if wanted.minutes <= limit:
            return wanted
        if rule not in self._shortened:
            self._shortened.add(rule)
            self._logger.info(
                f"{rule}: its partition allows {limit:.0f} minutes instead of {wanted.minutes}; "
                "its jobs go on in further starts"
            )
        return wanted.but(time=int(limit))


def wait_for_inputs(job: Any, folder: Path) -> str:
    """Return Snakemake's argument that names the files a node has to see before it starts.

    Unlike the base class's it does not name the submitting process's temporary folder, which may be gone when
    the job is started again.
    """
    files = [str(file) for file in job.get_wait_for_files()]
    if len(files) > MANY_INPUTS:
        listed = folder / "inputs" / f"{private.digest(files)}.txt"
        with suppress(OSError):  # a full disk
            listed.parent.mkdir(parents=True, exist_ok=True)
            listed.write_text("\n".join(files) + "\n")
            return str(format_cli_arg("--wait-for-files-file", str(listed)))
    return str(format_cli_arg("--wait-for-files", files))


def paths(folder: Path, job_id: str) -> JobPaths:
    return JobPaths(folder, job_id=job_id.partition("@")[0], task_id=0)
