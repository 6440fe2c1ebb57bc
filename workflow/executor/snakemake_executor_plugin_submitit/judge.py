"""One look at one job: does it go on, and if not, how did it end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit.batch import Submitted
from snakemake_executor_plugin_submitit.cluster import Cluster
from snakemake_executor_plugin_submitit.progress import Restarts
from snakemake_executor_plugin_submitit.queue import Seen
from snakemake_executor_plugin_submitit.sbatch import paths
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.verdict import LAG, LOST, failure, read_result

# Reasons for waiting that do not pass by themselves, and what helps.
_STUCK = {
    "BadConstraints": "no node has what it asks for",
    "DependencyNeverSatisfied": "cancel it",
    "JobHeldAdmin": "an administrator holds it",
    "JobHeldUser": "scontrol release {job}",
    "JobHoldMaxRequeue": "SLURM started it too often by itself; scontrol release {job}",
    "PartitionTimeLimit": "its 'runtime' is more than the partition allows",
    "launch failed requeued held": "its node could not start it; scontrol release {job}",
}
_SOON = 5.0  # seconds for a result to appear where SLURM's state says that there may be none


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    success: bool
    reason: str = ""
    state: str = ""
    nodes: str = ""


def judge(
    one: Submitted,
    view: Mapping[str, Seen] | None,
    cluster: Cluster,
    settings: ExecutorSettings,
    logger: Any,
) -> Ended | None:
    """Return how a job ended, None if it goes on or cannot be judged yet.

    A result counts as soon as SLURM says that the job ended; before, a failure may be that of a command that
    SLURM is ending in order to start it again.
    """
    place = paths(one.prepared.folder, one.job_id)
    if view is None:  # the controller is away: only success is certain
        result = read_result(place)
        return Ended(True) if result is not None and result.success else None
    seen = view.get(one.job_id)
    if seen is not None and not seen.ended:
        one.gone_since = None
        _warn_if_stuck(one, seen, logger)
        return None

    now = time.monotonic()
    if one.gone_since is None:
        one.gone_since = now
    gone = now - one.gone_since
    result = read_result(place)
    if result is not None and result.success:
        return Ended(True)
    state, nodes = (seen.state, seen.nodes) if seen else ("", "")
    if result is None:
        if seen and _may_restart(one, seen, settings) and cluster.restart(one.job_id):
            one.gone_since = None
            logger.info(f"{cluster.title} job {one.job_id} ({state}) is started again")
            return None
        lag = LAG if seen is None or state == "COMPLETED" else _SOON
        if gone < lag and state != "CANCELLED":
            return None
    reason = failure(one.prepared.rule, one.prepared.request, seen, result, one.log)
    return Ended(False, reason, state, nodes)


def _may_restart(one: Submitted, seen: Seen, settings: ExecutorSettings) -> bool:
    """Return whether SLURM gave up a job that should have been started again.

    Its configuration may forbid that, or the controller was away when the job asked for it.
    """
    if settings.no_requeue:
        return False
    note = Restarts.read(Path(paths(one.prepared.folder, one.job_id).folder) / f"{one.job_id}_restarts.json")
    if settings.stalled_restarts and note.stalled >= settings.stalled_restarts:
        return False
    return seen.state in LOST or (seen.state in ("TIMEOUT", "FAILED") and bool(note.requeued))


def _warn_if_stuck(one: Submitted, seen: Seen, logger: Any) -> None:
    advice = _STUCK.get(seen.reason)
    if advice and one.warned != seen.reason:
        one.warned = seen.reason
        logger.warning(f"SLURM job {one.job_id} waits ({seen.reason}): {advice.format(job=one.job_id)}")
