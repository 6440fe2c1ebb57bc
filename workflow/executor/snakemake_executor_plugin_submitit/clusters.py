"""Which cluster is meant."""

from __future__ import annotations

import shutil

from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit.cluster import Cluster, Slurm
from snakemake_executor_plugin_submitit.local import Debug, Local
from snakemake_executor_plugin_submitit.queue import Queue
from snakemake_executor_plugin_submitit.settings import ExecutorSettings


def choose(settings: ExecutorSettings, queue: Queue) -> Cluster:
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
    return Slurm(settings, queue)
