"""A job that an earlier Snakemake submitted, before it was killed, and that still counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from snakemake_executor_plugin_submitit.batch import Prepared
from snakemake_executor_plugin_submitit.queue import Seen
from snakemake_executor_plugin_submitit.registry import Entry
from snakemake_executor_plugin_submitit.sbatch import paths
from snakemake_executor_plugin_submitit.verdict import read_result


@dataclass(frozen=True)
class Attachment:
    """What was found for a job: nothing, its like, or something that has to go."""

    job_id: str = ""
    state: str = ""
    same: bool = False
    difference: str = ""


def find(prepared: Prepared, entry: Entry, view: Mapping[str, Seen], started: float) -> Attachment:
    """Look in the queue for `entry`, an earlier submission of the same job.

    It counts if it runs, waits, or ended after this Snakemake began (`started`, seconds since the epoch). One
    that had ended before is no answer: Snakemake has looked at its outputs and wants the job to run.
    """
    job_id = entry.full_id(entry.job_id) if entry.job_id else _by_token(entry, view)
    if job_id is None:
        return Attachment()
    seen = view.get(job_id)
    if seen is None or seen.ended:
        place = paths(entry.folder, job_id)
        result = read_result(place)
        late = result is not None and result.success and Path(place.result_pickle).stat().st_mtime > started
        same = entry.print.work == prepared.print.work
        return Attachment(job_id, "ended", True) if late and same else Attachment()
    if entry.print.work != prepared.print.work:
        return Attachment(job_id, seen.state, False, "command, parameters or inputs")
    if entry.print.request != prepared.print.request and seen.state == "PENDING":
        return Attachment(job_id, seen.state, False, "resources")
    return Attachment(job_id, seen.state, True)


def _by_token(entry: Entry, view: Mapping[str, Seen]) -> str | None:
    for job_id, seen in view.items():
        if entry.token in seen.comment:
            return entry.full_id(job_id.split("_")[0])
    return None
