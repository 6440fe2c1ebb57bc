"""How a job ended, from its result and SLURM's state, in words that say what to do."""

from __future__ import annotations

import os
import pickle
import re
from dataclasses import dataclass
from pathlib import Path

from submitit.core.utils import JobPaths

from snakemake_executor_plugin_submitit.parameters import Request
from snakemake_executor_plugin_submitit.queue import Seen

# A shared disk may show a result this long after SLURM knows that the job ended.
LAG = 30.0
TAIL = 8192  # bytes of a log's end in which slurmstepd's words are looked for

# States out of which the same job id may start again, though SLURM did not do it by itself.
LOST = frozenset({"NODE_FAIL", "BOOT_FAIL", "PREEMPTED"})

_KILLED_FOR_MEMORY = re.compile(
    r"slurmstepd.*(oom.?kill|exceeded.*memory limit|out.of.memory)", re.IGNORECASE
)
_REASON = re.compile(r"CommandFailed: (.*)\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Result:
    """What a job left: whether it succeeded, else why not."""

    success: bool
    reason: str = ""


def read_result(paths: JobPaths) -> Result | None:
    """Return what a job left behind, None if nothing (yet)."""
    try:
        next(os.scandir(paths.folder), None)  # makes a network disk look again
        kind, value = pickle.loads(Path(paths.result_pickle).read_bytes())
    except (OSError, EOFError, pickle.UnpicklingError, ValueError):
        return None
    if kind == "success":
        return Result(True)
    reason = _REASON.search(str(value))
    return Result(False, reason.group(1).strip() if reason else str(value).strip().splitlines()[-1])


def failure(rule: str, request: Request, seen: Seen | None, result: Result | None, log: Path) -> str:
    """Return why a job failed and what can be done about it."""
    state = seen.state if seen else "unknown to SLURM"
    if state == "OUT_OF_MEMORY" or (state not in ("COMPLETED", "TIMEOUT") and _killed_for_memory(log)):
        return out_of_memory(rule, request)
    if result is not None and result.reason:
        return result.reason
    if seen is None:
        return "SLURM does not know it any more and it left no result"
    why = f" ({seen.reason})" if seen.reason else ""
    limit = f" of {request.minutes} minutes" if request.minutes else ""
    example = f"--set-resources {rule}:runtime={2 * request.minutes if request.minutes else 'MINUTES'}"
    words = {
        "TIMEOUT": f"it ran into its time limit{limit}. Raise its 'runtime', for example by {example}",
        "CANCELLED": f"somebody cancelled it{why}",
        "NODE_FAIL": f"its node {seen.nodes} was lost and SLURM did not start it again",
        "ENDED": "its process ended and left no result",
        "COMPLETED": f"it left no result within {LAG:.0f} seconds: is {log.parent} on a shared disk?",
    }
    return words.get(state, f"SLURM says {state}{why}; it left no result")


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


def _killed_for_memory(log: Path) -> bool:
    return _KILLED_FOR_MEMORY.search(log_end(log, TAIL)) is not None


def log_end(log: Path, size: int) -> str:
    """Return the last `size` bytes of a log as text; nothing if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
