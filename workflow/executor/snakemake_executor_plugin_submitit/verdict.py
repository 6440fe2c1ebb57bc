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

from snakemake_executor_plugin_submitit.jobs import Cluster, Prepared, State, Submitted
from snakemake_executor_plugin_submitit.node import COMPLAINT
from snakemake_executor_plugin_submitit.progress import Restarts
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
_REASON = re.compile(r"CommandFailed: (.*)\s*\Z", re.DOTALL)

# Reasons for waiting, by how they begin, and what helps. The first that fits counts.
_WAITING = {
    "Resources": "the nodes that fit are busy{place}{start}",
    "Priority": "others come first{place}{start}",
    "Dependency": "it starts when the job whose place it takes has ended",
    "BeginTime": "it may not start before {when}; a job that is started again waits about two minutes",
    "JobHeldUser": "somebody holds it; scontrol release {job}",
    "JobHeldAdmin": "an administrator holds it; ask there",
    "JobHoldMaxRequeue": "SLURM started it too often by itself; scontrol release {job}",
    "launch failed requeued held": "its node could not start it; scontrol release {job}",
    "PartitionTimeLimit": "its 'runtime' is more than the partition allows",
    "PartitionNodeLimit": "its 'nodes' are more than the partition allows; change them or 'slurm_partition'",
    "PartitionDown": "its partition is down; take another one, or ask an administrator",
    "PartitionInactive": "its partition is inactive; take another one, or ask an administrator",
    "BadConstraints": "no node has what it asks for; change 'constraint', 'gpu', 'mem_mb' or 'cpus_per_task'",
    "Licenses": "all licenses it asks for are in use",
    "ReqNodeNotAvail": "nodes it needs are down, drained or reserved; sinfo -R says why",
    "Nodes required": "nodes it needs are down, drained or reserved; sinfo -R says why",
    "Reservation": "its reservation has not begun, or has no room; scontrol show reservation",
    "DependencyNeverSatisfied": "what it waits for failed; cancel it",
    "JobArrayTaskLimit": "so many tasks of its array may run at once",
    "Cleaning": "what it left on its last node is being removed",
    "InvalidAccount": "its account is not valid any more; change 'slurm_account'",
    "InvalidQOS": "its QOS is not valid any more; change 'qos'",
    "QOSNotAllowed": "this QOS is not allowed there; change 'qos' or 'slurm_partition'",
    "AccountNotAllowed": "this account is not allowed there; change 'slurm_account' or 'slurm_partition'",
    "QOSTimeLimit": "its 'runtime' is more than the QOS allows",
}
_TOO_MUCH = re.compile(r"(QOS|Assoc)(Max|Min)\w+Per(Job|Node)|MaxMemPerLimit|QOSMin")
_USED_UP = re.compile(r"QOS|Assoc")
# What waits for one of these would wait for ever, and its rule can be changed.
_NEVER = ("PartitionTimeLimit",)


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
    reason = _REASON.search(str(value))
    return Ended(False, reason.group(1).strip() if reason else str(value).strip().splitlines()[-1])


def verdict(
    one: Submitted,
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
        result = read_result(one.paths)
        return Ended(True, used=result.used) if result is not None and result.success else None
    state = view.get(one.job_id)
    if state is not None and not state.ended:
        one.gone_since = None
        return None

    now = time.monotonic()
    if one.gone_since is None:
        one.gone_since = now
    gone = now - one.gone_since
    result = read_result(one.paths)
    if (result is not None and result.success) or (state is not None and state.name == "COMPLETED"):
        return Ended(True, used=result.used if result else {})
    if result is None:
        if state and _may_restart(one, state, settings) and cluster.restart(one.job_id):
            one.gone_since = None
            logger.info(f"{cluster.title} job {one.job_id} ({state.name}) is started again")
            return None
        if gone < (LAG if state is None else SOON) and (state is None or state.name != "CANCELLED"):
            return None
    reason = failure(one, state, result)
    return Ended(False, reason, state.name if state else "", state.nodes if state else "")


def _may_restart(one: Submitted, state: State, settings: ExecutorSettings) -> bool:
    """Return whether SLURM gave up a job that should have been started again.

    Its configuration may forbid that, or the controller was away when the job asked for it.
    """
    if settings.no_requeue:
        return False
    note = Restarts.read(one.paths.folder / f"{one.paths.job_id}_restarts.json")
    if settings.stalled_restarts and note.stalled >= settings.stalled_restarts:
        return False
    return state.name in LOST or (state.name in ("TIMEOUT", "FAILED") and bool(note.requeued))


def failure(one: Submitted, state: State | None, result: Ended | None) -> str:
    """Return why a job failed and what can be done about it."""
    rule, request = one.prepared.rule, one.prepared.request
    name = state.name if state else "unknown"
    killed = _KILLED_FOR_MEMORY.search(log_end(one.log, TAIL)) is not None
    if name == "OUT_OF_MEMORY" or (killed and name not in ("COMPLETED", "TIMEOUT")):
        return out_of_memory(rule, request)
    if result is not None and result.reason:
        return result.reason
    if state is None:
        return "SLURM does not know it any more and it left no result"
    if one.complaint:
        return one.complaint
    why = f" ({state.reason})" if state.reason else ""
    limit = f" of {request.minutes} minutes" if request.minutes else ""
    example = f"--set-resources {rule}:runtime={2 * request.minutes if request.minutes else 'MINUTES'}"
    words = {
        "TIMEOUT": f"it ran into its time limit{limit}. Raise its 'runtime', for example by {example}",
        "CANCELLED": f"somebody cancelled it{why}",
        "NODE_FAIL": f"its node {state.nodes} was lost and SLURM did not start it again",
        "ENDED": "its process ended and left no result",
    }
    return words.get(name, f"SLURM says {name}{why}; it left no result, nor could a reason be written")


def out_of_memory(rule: str, request: Request) -> str:
    """Return what is said of a job that needed more memory than it had asked for."""
    name, _, value = request.memory.partition("=")
    if not value.isdigit() or not int(value):
        return f"it exceeded its memory. Ask for more: --set-resources {rule}:mem_mb=MEGABYTES"
    each = " a processor" if name == "mem_mb_per_cpu" else ""
    return (
        f"it exceeded its memory, {value} MB{each} ({request.memory}). "
        f"Raise it, for example by --set-resources {rule}:{name}={2 * int(value)}"
    )


def log_end(log: Path, size: int) -> str:
    """Return the last `size` bytes of a log as text; nothing if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


class News:
    """Tells when jobs start, what their nodes complain of, and why they wait: after a minute, once."""

    def __init__(self, cluster: Cluster, logger: Any) -> None:
        self._cluster, self._logger = cluster, logger
        self._known: set[str] = set()

    def look(self, jobs: Iterable[Submitted], view: Mapping[str, State]) -> list[tuple[Submitted, str]]:
        """Tell what is new; return the jobs that would wait for ever, with why."""
        now = time.monotonic()
        lasting: dict[str, list[Submitted]] = {}
        for one in jobs:
            state = view.get(one.job_id, State(""))
            self._tell(one, state)
            reason = state.reason if state.name == "PENDING" else ""
            if one.pending[0] != reason:
                one.pending = (reason, now)
            if reason and now - one.pending[1] >= PATIENCE:
                lasting.setdefault(reason, []).append(one)
        for reason, waiting in lasting.items():
            if reason not in self._known:
                self._known.add(reason)
                first = waiting[0]
                many = f"{len(waiting)} jobs wait" if len(waiting) > 1 else "a job waits"
                advice = self._advice(reason, first, view[first.job_id])
                which = f"{first.job_id}, {first.prepared.label}"
                self._logger.warning(f"{self._cluster.title}: {many} ({reason}; {which}): {advice}")
        return [
            (one, f"it would wait for ever ({reason}): {self._advice(reason, one, view[one.job_id])}")
            for reason in lasting.keys() & set(_NEVER)
            for one in lasting[reason]
        ]

    def _tell(self, one: Submitted, state: State) -> None:
        if state.name == "RUNNING":
            if not one.running:
                where = f" on {state.nodes}" if state.nodes else ""
                self._logger.info(line(one.prepared, f"started{where} ({one.job_id})"))
            one.running = state.nodes or "?"
        elif state.name == "PENDING" and one.running:
            self._logger.info(line(one.prepared, f"waits to be started again ({one.job_id})"))
            one.running = ""
        complaint = state.comment.partition(COMPLAINT)[2]
        if complaint and complaint != one.complaint:
            one.complaint = complaint
            self._logger.warning(line(one.prepared, f"{complaint} ({one.job_id})"))

    def _advice(self, reason: str, one: Submitted, state: State) -> str:
        request, rule = one.prepared.request, one.prepared.rule
        exact = _WAITING.get(reason) or _WAITING.get(reason.split(",", maxsplit=1)[0].strip())
        words = exact or next((words for start, words in _WAITING.items() if reason.startswith(start)), "")
        if not words and _TOO_MUCH.match(reason):
            words = f"it asks for more than one job may have; change its resources, or 'qos', in rule {rule}"
        elif not words and _USED_UP.match(reason):
            words = "your jobs, or your group's, have all that they may; others have to end first"
        place = self._cluster.place_in_queue(one.job_id) if "{place}" in words else ""
        words = words.format(
            job=one.job_id.split("@")[0],
            place=f", {place}" if place else "",
            start=f", expected to start at {state.start}" if state.start else "",
            when=state.start or "some time",
        )
        if reason in ("PartitionTimeLimit", "QOSTimeLimit"):
            limit = self._cluster.longest(request)
            allowed = f" ({limit:.0f} minutes)" if limit < float("inf") else ""
            words += f"{allowed}: --set-resources {rule}:runtime=MINUTES, or another 'slurm_partition'"
        return words or "scontrol show job has more"


def line(one: Prepared, words: str) -> str:
    """Return what is said of a job, with the time."""
    return f"{time.strftime('%H:%M:%S')} {one.label}: {words}"
