"""A job of Snakemake -> what can be submitted."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

from snakemake_interface_executor_plugins.utils import format_cli_arg

from snakemake_executor_plugin_submitit import private
from snakemake_executor_plugin_submitit.jobs import Cluster, Fingerprint, Prepared
from snakemake_executor_plugin_submitit.node import Command
from snakemake_executor_plugin_submitit.resources import Partitions, Request, ResourceError, request
from snakemake_executor_plugin_submitit.settings import ExecutorSettings

MANY_INPUTS = 20  # names of more files than this go through a file


class Preparation:
    """Makes jobs ready to be submitted."""

    def __init__(self, folder: Path, cluster: Cluster, settings: ExecutorSettings, logger: Any) -> None:
        """Prepare for `cluster`; jobs leave their logs below `folder`."""
        self._folder, self._cluster, self._settings, self._logger = folder, cluster, settings, logger
        path = settings.partition_config or os.environ.get("SNAKEMAKE_SLURM_PARTITIONS", "")
        self._partitions = Partitions(Path(path)) if path else None
        self._bad_nodes: dict[str, set[str]] = {}  # where a job failed
        self._shortened: set[str] = set()

    def __call__(self, job: Any, shell: str) -> Prepared:
        """Return what to submit for `job`, which runs by the command `shell`.

        Raises:
            ResourceError: it asks for what cannot be had.
        """
        rule = str(job.name)
        parts = private.single_jobs(job)
        key = " ".join(map(private.key, parts))
        resources = dict(job.resources.items())
        if self._partitions and not resources.get("slurm_partition"):
            resources["slurm_partition"] = self._partitions.best(resources, job.threads)
        wanted = request(resources, job.threads)
        fingerprint = Fingerprint(key, private.digest(map(private.work, parts)), private.digest([wanted.key]))
        progress = shows_progress(resources.get("progress"), rule)
        if progress and not self._settings.no_requeue:
            wanted = self._within_limit(wanted, rule)
        nodes = {*self._settings.exclude_failed_nodes.split(","), *self._bad_nodes.get(key, ())} - {""}
        if nodes:
            wanted = wanted.but(exclude=",".join(sorted(nodes)))
        label = private.label(job)
        command = Command(
            # Not where nodes have a Python of their own.
            shell.replace(" -m snakemake ", f" -m {private.__name__} ", 1),
            name=rule,
            label=f"{self._settings.name_prefix}{label}",
            stop_seconds=wanted.stop_seconds(self._settings.stop_seconds),
            stop_variables=tuple(name for name in re.split(r"[,\s]+", self._settings.stop_variables) if name),
            progress=progress,
            stalled_restarts=self._settings.stalled_restarts,
            requeue=not self._settings.no_requeue,
            minutes=wanted.minutes,
            environment=self._cluster.environment,
        )
        own = self._folder / re.sub(r"[^\w.-]", "_", f"{rule}@{wanted.cluster}" if wanted.cluster else rule)
        return Prepared(job, rule, label, fingerprint, wanted, own, command)

    def failed(self, one: Prepared, nodes: str) -> None:
        """Note where a job failed: its retries go elsewhere."""
        if nodes and "[" not in nodes and "?" not in nodes:  # of several nodes nobody knows which one it was
            self._bad_nodes.setdefault(one.fingerprint.key, set()).update(nodes.split(","))

    def _within_limit(self, wanted: Request, rule: str) -> Request:
        """Shorten a job that shows its progress to what its partition allows: it goes on in another start."""
        limit = (
            self._cluster.longest(wanted) if wanted.minutes and "qos" not in wanted.parameters else math.inf
        )
        if not wanted.minutes or wanted.minutes <= limit:
            return wanted
        if rule not in self._shortened:
            self._shortened.add(rule)
            self._logger.info(
                f"{rule}: its partition allows {limit:.0f} minutes instead of {wanted.minutes}; "
                "its jobs go on in further starts"
            )
        return wanted.but(time=int(limit))


def shows_progress(value: Any, rule: str) -> str | None:
    """Return the file or folder that shows how far a job got; its name has no wildcards left.

    Raises:
        ResourceError: it has, so that it would be looked for in vain.
    """
    if value and "{" in str(value):
        raise ResourceError(
            f"The rule '{rule}' has progress=\"{value}\", but Snakemake fills wildcards into a resource only "
            "where it is a function; write it as `lambda wildcards: ...`."
        )
    return str(value) if value else None


def processors(job: Any) -> int:
    """Return how many processors Snakemake may use on the node: what the job asks for, not the node's."""
    return max(job.threads, int(job.resources.get("cpus_per_task") or 0), 1)


def wait_for_inputs(job: Any, folder: Path) -> str:
    """Return Snakemake's argument that names the files a node has to see before it starts.

    Unlike the base class's it does not name the submitting process's temporary folder, which may be gone when
    the job is started again.
    """
    files = [str(file) for file in job.get_wait_for_files()]
    if len(files) <= MANY_INPUTS:
        return str(format_cli_arg("--wait-for-files", files))
    listed = folder / "inputs" / f"{uuid4().hex}.txt"
    try:
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("\n".join(files) + "\n")
    except OSError:  # a full disk
        return str(format_cli_arg("--wait-for-files", files))
    return str(format_cli_arg("--wait-for-files-file", str(listed)))
