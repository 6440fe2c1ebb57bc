"""A job of Snakemake -> what can be submitted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from uuid import uuid4

from snakemake_interface_executor_plugins.utils import format_cli_arg

from snakemake_executor_plugin_submitit.batch import Prepared
from snakemake_executor_plugin_submitit.cluster import Cluster
from snakemake_executor_plugin_submitit.command import Command
from snakemake_executor_plugin_submitit.fingerprint import fingerprint
from snakemake_executor_plugin_submitit.parameters import ResourceError, request
from snakemake_executor_plugin_submitit.settings import ExecutorSettings

MANY_INPUTS = 20  # names of more files than this go through a file


def prepare(job: Any, shell: str, folder: Path, cluster: Cluster, settings: ExecutorSettings) -> Prepared:
    """Return what to submit for `job`, which runs by the command `shell` and leaves its log below `folder`.

    Raises:
        ResourceError: it asks for what cannot be had.
    """
    rule = str(job.name)
    wanted = request(job.resources, job.threads, rule)
    command = Command(
        # Not where nodes have a Python of their own.
        shell.replace(" -m snakemake ", " -m snakemake_executor_plugin_submitit.inner ", 1),
        name=rule,
        stop_seconds=wanted.stop_seconds(settings.stop_seconds),
        stop_variables=tuple(name for name in re.split(r"[,\s]+", settings.stop_variables) if name),
        progress=shows_progress(job.resources.get("progress"), rule),
        stalled_restarts=settings.stalled_restarts,
        requeue=not settings.no_requeue,
        minutes=wanted.minutes,
        environment=cluster.environment,
    )
    own = folder / re.sub(r"[^\w.-]", "_", rule)
    return Prepared(job, rule, fingerprint(job, wanted), wanted, own, command)


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
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("\n".join(files) + "\n")
    return str(format_cli_arg("--wait-for-files-file", str(listed)))
