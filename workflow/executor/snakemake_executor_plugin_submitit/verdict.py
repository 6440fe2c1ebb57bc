"""How a job is: whether it goes on, why it waits, how it ended, in words that say what to do."""

from __future__ import annotations

import os
import pickle
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from submitit.core.utils import JobPaths

from snakemake_executor_plugin_submitit.clusters import Cluster, State
from snakemake_executor_plugin_submitit.jobs import Job
from snakemake_executor_plugin_submitit.node import COMPLAINT, FAILED
from snakemake_executor_plugin_submitit.progress import Restarts, log_end
from snakemake_executor_plugin_submitit.resources import Request
from snakemake_executor_plugin_submitit.settings import ExecutorSettings

LAG = 30.0  # seconds that a shared disk may show a result after SLURM knows that the job ended
SOON = 5.0  # the same where SLURM's state says that there may be none
TAIL = 8192  # bytes of a log's end in which slurmstepd's words are looked for
PATIENCE = 60.0  # seconds after which the reason why a job waits is told

# States out of which the same job id may start again, though SLURM did not do it by itself.
LOST = frozenset({"NODE_FAIL", "BOOT_FAIL", "PREEMPTED"})

_KILLED_FOR_MEMORY = re.compile(
    r"slurmstepd.*(oom.?kill|exceeded.*memory limit|out.of.memory)", re.IGNORECASE
)

_RELEASE = "scontrol release {job}"
_ONE_JOBS_LIMIT = r"(QOS|Assoc)(Max|Min)\w+Per(Job|Node)|MaxMemPerLimit|QOSMin"
_NODES_AWAY = "nodes it needs are down, drained or reserved; sinfo -R says why"
# Reasons for waiting, by how they begin, and what helps. The first that fits counts.
_WAITING = {
    "Resources": "the nodes that fit are busy{place}{start}",
    "Priority": "others come first{place}{start}",
    "DependencyNeverSatisfied": "what it waits for failed; cancel it",
    "Dependency": "it starts when the job whose place it takes has ended",
    "BeginTime": "it may not start before {when}; a job that is started again waits about two minutes",
    "JobHeldAdmin": "an administrator holds it; ask there",
    "JobHeld": f"somebody holds it; {_RELEASE}",
    "JobHoldMaxRequeue": f"SLURM started it too often by itself; {_RELEASE}",
    "launch failed requeued held": f"its node could not start it; {_RELEASE}",
    "PartitionTimeLimit": "its 'runtime' is more than the partition allows{limit}",
    "QOSTimeLimit": "its 'runtime' is more than the QOS allows{limit}",
    "PartitionNodeLimit": "its 'nodes' are more than the partition allows; change them or 'slurm_partition'",
    "PartitionDown": "its partition is down; take another one, or ask an administrator",
    "PartitionInactive": "its partition is inactive; take another one, or ask an administrator",
    "BadConstraints": "no node has what it asks for; change 'constraint', 'gpu', 'mem_mb' or 'cpus_per_task'",
    "Licenses": "all licenses it asks for are in use",
    "ReqNodeNotAvail": _NODES_AWAY,
    "Nodes required": _NODES_AWAY,
    "Reservation": "its reservation has not begun, or has no room; scontrol show reservation",
    "JobArrayTaskLimit": "so many tasks of its array may run at once",
    "Cleaning": "what it left on its last node is being removed",
    "InvalidAccount": "its account is not valid any more; change 'slurm_account'",
    "AccountNotAllowed": "this account is not allowed there; change 'slurm_account' or 'slurm_partition'",
    "InvalidQOS": "its QOS is not valid any more; change 'qos'",
    "QOSNotAllowed": "this QOS is not allowed there; change 'qos' or 'slurm_partition'",
    _ONE_JOBS_LIMIT: (
        "it asks for more than one job may have; change its resources, or 'qos', in rule {rule}"
    ),
    "QOS|Assoc": (
        "your jobs, or your group's, have all that they may; others have to end first, unless this one alone "
        "asks for more than that"
    ),
    "": "scontrol show job has more",
}
# What waits for this would wait for ever, and its rule can be changed.
_NEVER = re.compile(f"PartitionTimeLimit|{_ONE_JOBS_LIMIT}")


@dataclass(frozen=True)
class Ended:
    """How a job ended: whether it succeeded, else why not; and what it used."""

    success: bool
    reason: str = ""
    state: str = ""
    nodes: str = ""
    used: Mapping[str, float] = field(default_factory=dict)


def read_result(place: JobPaths) -> Ended | None:
    """Return what a job left behind, None if nothing (yet)."""
    try:
        next(os.scandir(place.folder), None)  # makes a network disk look again
        kind, value = pickle.loads(Path(place.result_pickle).read_bytes())
    except (OSError, EOFError, pickle.UnpicklingError, ValueError):
        return None
    if kind == "success":
        return Ended(True, used=value if isinstance(value, dict) else {})
    words = str(value).strip()
    return Ended(False, words.rpartition(FAILED)[2] if FAILED in words else words.splitlines()[-1])


def verdict(
    job: Job,
    view: Mapping[str, State] | None,
    cluster: Cluster,
    settings: ExecutorSettings,
    logger: Any,
) -> Ended | None:
    """Return how a job ended, None if it goes on or cannot be judged yet.

    SLURM's word counts: COMPLETED means that the command succeeded, even if no disk could take its result. A
    failure counts as soon as SLURM is done with the job; before, it may be that of a command that SLURM is
    ending in order to start it again.
    """
    if view is None:  # the controller is away: only success is certain
        result = read_result(job.paths)
        return result if result and result.success else None
    state = view.get(job.job_id, State(""))
    if state.name and not state.ended:
        job.gone_since = None
        return None

    now = time.monotonic()
    if job.gone_since is None:
        job.gone_since = now
    result = read_result(job.paths)
    if state.name == "COMPLETED" and not (result and result.success):
        result = Ended(True)
    if result and result.success:
        return result
    if result is None:
        if _may_restart(job, state, settings) and cluster.restart(job.job_id):
            job.gone_since = None
            logger.info(f"{cluster.title} job {job.job_id} ({state.name}) is started again")
            return None
        if now - job.gone_since < (SOON if state.name else LAG) and state.name != "CANCELLED":
            return None
    return Ended(False, failure(job, state, result), state.name, state.nodes, _restarts(job).used)


def _restarts(job: Job) -> Restarts:
    return Restarts.read(job.paths.folder / f"{job.paths.job_id}_restarts.json")


def _may_restart(job: Job, state: State, settings: ExecutorSettings) -> bool:
    """Return whether SLURM gave up a job that should have been started again.

    Its configuration may forbid that, or the controller was away when the job asked for it.
    """
    if settings.no_requeue:
        return False
    note = _restarts(job)
    if settings.stalled_restarts and note.stalled >= settings.stalled_restarts:
        return False
    return state.name in LOST or (state.name in ("TIMEOUT", "FAILED") and bool(note.requeued))


def failure(job: Job, state: State, result: Ended | None) -> str:
    name, minutes = state.name, job.request.minutes
    killed = _KILLED_FOR_MEMORY.search(log_end(job.log, TAIL)) is not None
    if name == "OUT_OF_MEMORY" or (killed and name not in ("COMPLETED", "TIMEOUT")):
        return out_of_memory(job.rule, job.request)
    if result is not None:
        return result.reason
    if job.complaint and name:
        return job.complaint
    why = f" ({state.reason})" if state.reason else ""
    limit = f" of {minutes} minutes" if minutes else ""
    example = f"--set-resources {job.rule}:runtime={2 * minutes if minutes else 'MINUTES'}"
    words = {
        "": "SLURM does not know it any more and it left no result",
        "TIMEOUT": f"it ran into its time limit{limit}. Raise its 'runtime', for example by {example}",
        "CANCELLED": f"somebody cancelled it{why}",
        "NODE_FAIL": f"its node {state.nodes} was lost and SLURM did not start it again",
        "ENDED": "its process ended and left no result",
    }
    return words.get(name, f"SLURM says {name}{why}; it left no result, nor could a reason be written")


def out_of_memory(rule: str, request: Request) -> str:
    """Return what is said of a job that needed more memory than it had asked for."""
    name, each = ("mem_mb_per_cpu", " a processor") if "mem_per_cpu" in request.options else ("mem_mb", "")
    asked = int(request.options.get("mem_per_cpu", request.options.get("mem", "0M")).removesuffix("M"))
    if not asked:
        return f"it exceeded its memory. Ask for more: --set-resources {rule}:mem_mb=MEGABYTES"
    return (
        f"it exceeded its memory, {asked} MB{each} ({name}={asked}). "
        f"Raise it, for example by --set-resources {rule}:{name}={2 * asked}"
    )


class News:
    """Tells when jobs start, what their nodes complain of, and why they wait: after a minute, once."""

    def __init__(self, cluster: Cluster, logger: Any) -> None:
        self._cluster, self._logger = cluster, logger
        self._known: set[str] = set()

    def look(self, jobs: Iterable[Job], view: Mapping[str, State]) -> list[tuple[Job, str]]:
        """Tell what is new; return the jobs that would wait for ever, with why."""
        now = time.monotonic()
        lasting: dict[str, list[Job]] = {}
        for job in jobs:
            state = view.get(job.job_id, State(""))
            self._tell(job, state)
            reason = state.reason if state.name == "PENDING" else ""
            if job.pending[0] != reason:
                job.pending = (reason, now)
            if reason and now - job.pending[1] >= PATIENCE:
                lasting.setdefault(reason, []).append(job)
        for reason in lasting.keys() - self._known:
            self._known.add(reason)
            first, *others = lasting[reason]
            many = f"{len(others) + 1} jobs wait" if others else "a job waits"
            advice = self._advice(reason, first, view[first.job_id].start)
            self._logger.warning(
                f"{self._cluster.title}: {many} ({reason}; {first.job_id}, {first.label}): {advice}"
            )
        return [
            (job, f"it would wait for ever ({reason}): {self._advice(reason, job, '')}")
            for reason in filter(_NEVER.match, lasting)
            for job in lasting[reason]
        ]

    def _tell(self, job: Job, state: State) -> None:
        if state.name == "RUNNING":
            if not job.running:
                where = f" on {state.nodes}" if state.nodes else ""
                self._logger.info(job.line(f"started{where} ({job.job_id})"))
            job.running = state.nodes or "?"
        elif state.name == "PENDING" and job.running:
            self._logger.info(job.line(f"waits to be started again ({job.job_id})"))
            job.running = ""
        complaint = state.comment.partition(COMPLAINT)[2]
        if complaint and complaint != job.complaint:
            job.complaint = complaint
            self._logger.warning(job.line(f"{complaint} ({job.job_id})"))

    def _advice(self, reason: str, job: Job, start: str) -> str:
        words = next(words for begin, words in _WAITING.items() if re.match(begin, reason))
        place = self._cluster.place_in_queue(job.job_id) if "{place}" in words else ""
        minutes = self._cluster.longest(job.request) if "{limit}" in words else 0
        allowed = f" ({minutes:.0f} minutes)" if minutes < float("inf") else ""
        return words.format(
            job=job.job_id.partition("@")[0],
            rule=job.rule,
            place=f", {place}" if place else "",
            start=f", expected to start at {start}" if start else "",
            when=start or "some time",
            limit=f"{allowed}: --set-resources {job.rule}:runtime=MINUTES, or another 'slurm_partition'",
        )
