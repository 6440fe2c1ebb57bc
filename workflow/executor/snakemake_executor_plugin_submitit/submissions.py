"""Submitting jobs, in spite of limits and failures; and finding them again when Snakemake was killed."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from snakemake_executor_plugin_submitit.clusters import Cluster, State, SubmissionError, array_of, task
from snakemake_executor_plugin_submitit.jobs import Batch, Job, paths
from snakemake_executor_plugin_submitit.progress import pickled, write
from snakemake_executor_plugin_submitit.verdict import read_result

LONGEST_WAIT = 60.0  # seconds between two tries of a failed sbatch
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass
class Entry:
    """A job that was, or was about to be, submitted."""

    key: str
    work: str
    asked: str
    label: str
    workflow: str  # of which it is a job
    folder: str
    token: str  # the submission's unique name, which the queue shows in the comment
    index: int | None  # in the job array
    at: float  # when it was submitted
    submission: str = ""  # its id; "": Snakemake ended before it was known

    def job_id(self, view: Mapping[str, State]) -> str:
        """Return the job's id, if need be by its comment in the queue; '' if it cannot be found."""
        found = self.submission
        if not found:
            found = next((array_of(id_) for id_, state in view.items() if self.token in state.comment), "")
        return found and task(found, self.index)


class Registry:
    """A folder with a file for each submission: a JSON list of those of its jobs that have not ended.

    It is written before sbatch is called, so there is no moment at which a job is in the queue and unknown
    here. Workflows that run in one folder at a time never write the same file.
    """

    def __init__(self, folder: Path, workflow: str, logger: Any) -> None:
        """Read what is in `folder`; `workflow` is what tells this workflow from others."""
        self._folder, self._workflow, self._logger = folder, workflow, logger
        self._lock = threading.Lock()  # jobs are submitted from two threads
        folder.mkdir(parents=True, exist_ok=True)
        entries = [entry for file in folder.glob("*.json") for entry in _read(file)]
        self._entries = {entry.key: entry for entry in sorted(entries, key=lambda entry: entry.at)}

    def find(self, key: str) -> Entry | None:
        """Return the newest submission of the job `key` that is not known to have ended."""
        return self._entries.get(key)

    def ids(self) -> list[str]:
        with self._lock:
            return [entry.job_id({}) for entry in self._entries.values() if entry.submission]

    def intend(self, batch: Batch) -> None:
        """Note that jobs are about to be submitted, as an array if there are several.

        Raises:
            OSError: this cannot be written.
        """
        several, now = len(batch.jobs) > 1, time.time()
        with self._lock:
            known = [self._entries[job.key] for job in batch.jobs if job.key in self._entries]
            older = [one for one in known if one.token != batch.token]
            for index, job in enumerate(batch.jobs):
                names = (job.key, job.work, job.asked, job.label, self._workflow, str(job.folder))
                self._entries[job.key] = Entry(*names, batch.token, index if several else None, now)
            try:
                self._write(batch.token)
            except OSError:
                self._forget([job.key for job in batch.jobs])
                raise
            self._write_if_possible({one.token for one in older})
        _remove_commands(older)

    def submitted(self, token: str, job_id: str) -> None:
        with self._lock:
            for entry in self._entries.values():
                if entry.token == token:
                    entry.submission = job_id
            self._write_if_possible([token])

    def ended(self, keys: Iterable[str]) -> None:
        """Forget jobs whose end Snakemake is told, and remove what they would have read."""
        with self._lock:
            over = [self._entries[key] for key in keys if key in self._entries]
            self._write_if_possible(self._forget(one.key for one in over))
        _remove_commands(over)

    def cancel_unwanted(
        self, cluster: Cluster, live: Container[str], jobs: set[str], needed: set[str]
    ) -> bool:
        """End what an earlier start of this workflow submitted and this one has no use for.

        A job that waits has to be `needed`; one that runs only has to be among the workflow's `jobs`: it may
        be finishing what Snakemake has just found done. What ended and is not needed any more is forgotten.
        Return whether the queue could be read.
        """
        with self._lock:
            entries = [one for one in self._entries.values() if one.job_id({}) not in live]
        view = cluster.look([one.job_id({}) for one in entries if one.submission]) if entries else {}
        if view is None:
            return False
        cancelled, over, others = [], [], 0
        for one in entries:
            job_id = one.job_id(view)
            state = view.get(job_id)
            name = "" if state is None or state.ended else state.name
            if one.workflow != self._workflow:
                others += bool(name)
            elif not set(one.key.split()) & (needed if name in ("", "PENDING") else jobs):
                over.append(one.key)
                if name:
                    cancelled.append(job_id)
                    words = f"{one.label}, {cluster.title} job {job_id}"
                    self._logger.info(f"Cancelled, as it is not wanted any more: {words}")
        if cancelled:
            cluster.cancel(cancelled)
        self.ended(over)
        if others:
            self._logger.info(f"Jobs that a start with other targets submitted go on: {others}")
        return True

    def _forget(self, keys: Iterable[str]) -> set[str]:
        return {self._entries.pop(key).token for key in keys if key in self._entries}

    def _write_if_possible(self, tokens: Iterable[str]) -> None:
        """What is not written is no loss: the queue knows ids by comments, and what has ended."""
        for token in tokens:
            try:
                self._write(token)
            except OSError as error:
                self._logger.warning(f"{self._folder} cannot be written ({error}); jobs go on")

    def _write(self, token: str) -> None:
        file = self._folder / f"{token}.json"
        entries = [asdict(entry) for entry in self._entries.values() if entry.token == token]
        if entries:
            write(file, json.dumps(entries).encode())
        else:
            file.unlink(missing_ok=True)


def _remove_commands(entries: Iterable[Entry]) -> None:
    for one in entries:
        with suppress(OSError):
            pickled(Path(one.folder), one.token, one.index).unlink(missing_ok=True)


def _read(file: Path) -> list[Entry]:
    try:
        return [Entry(**one) for one in json.loads(file.read_text())]
    except (OSError, ValueError, TypeError):  # removed by another workflow, or of another version
        return []


class Found(NamedTuple):
    """What became of an earlier submission of a job: it goes on, or has to go for some `difference`."""

    job_id: str
    state: str
    difference: str = ""


def find(job: Job, entry: Entry, view: Mapping[str, State], started: float) -> Found | None:
    """Look in the queue for `entry`, an earlier submission of the same job; None if it has ended.

    What ended well after this Snakemake began (`started`, seconds since the epoch) counts as going on. What
    had ended before is no answer: Snakemake has looked at its outputs and wants the job to run.
    """
    job_id = entry.job_id(view)
    state = view.get(job_id)
    if not job_id:
        return None
    if state is None or state.ended:
        place = paths(Path(entry.folder), job_id)
        result = read_result(place)
        late = result is not None and result.success and Path(place.result_pickle).stat().st_mtime > started
        return Found(job_id, "ended") if late and job.work == entry.work else None
    if job.work != entry.work:
        return Found(job_id, state.name, "command, parameters or inputs")
    other = job.asked != entry.asked and state.name == "PENDING"
    return Found(job_id, state.name, "resources" if other else "")


@dataclass
class Submitter:
    """Sends batches; what the cluster does not take is sent again later, and nothing else waits for it.

    A policy (MaxSubmitJobs and its kin) holds batches back for as long as it takes: halved until some of it
    fits, and again whenever a job has ended. Other failures are tried again so many times.
    """

    cluster: Cluster
    registry: Registry
    run: str  # the name of this Snakemake
    retries: int
    logger: Any
    submitted: Callable[[Batch, str], None]  # is told the id of a batch
    refused: Callable[[Job, str], None]  # is told why a job was given up
    _lock: threading.Lock = field(default_factory=threading.Lock)  # of what follows
    _queue: list[Batch] = field(default_factory=list)
    _limits: dict[object, float] = field(default_factory=dict)  # where one was met, and when to look again
    _said: set[str] = field(default_factory=set)
    _stopped: bool = False

    def submit(self, batches: list[Batch]) -> None:
        with self._lock:
            self._queue += batches
        self.send_due()

    def send_due(self) -> None:
        """Send what is due, in order; nothing passes others that wait for the same limit."""
        with self._lock:
            queue, self._queue = self._queue, []
            while queue and not self._stopped:
                batch = queue.pop(0)
                limited = self._limits.get(batch.jobs[0].request.place, 0.0)
                if max(batch.due, limited) > time.monotonic():
                    self._queue.append(batch)
                else:
                    queue[:0] = self._send(batch)

    def places_free(self) -> None:
        """Note that a job ended: where a limit was met there may be room."""
        with self._lock:
            self._limits.clear()

    def stop(self) -> None:
        self._stopped = True

    def _send(self, batch: Batch) -> list[Batch]:
        """Send a batch; return its parts if they shall be sent at once."""
        batch.tries += 1
        try:
            self.registry.intend(batch)
            # sbatch may have reported a failure although the controller took it, or was about to.
            job_id = (batch.tries > 1 and self._find(batch.token)) or self.cluster.send(batch, self.run)
        except SubmissionError as refusal:
            job_id = "" if refusal.never or refusal.limit else self._find(batch.token)
            if not job_id:
                return self._failed(batch, refusal)
        except OSError as problem:
            words = f"{batch.jobs[0].folder.parent}: {problem.strerror}"
            return self._failed(batch, SubmissionError(words, limit=problem.errno in FULL))
        except Exception as problem:
            return self._failed(batch, SubmissionError(f"{type(problem).__name__}: {problem}", never=True))
        self.registry.submitted(batch.token, job_id)
        self.submitted(batch, job_id)
        return []

    def _failed(self, batch: Batch, error: SubmissionError) -> list[Batch]:
        """Put a batch off or give it up; return its halves if smaller ones may pass."""
        first, several = batch.jobs[0], len(batch.jobs) > 1
        waits = error.limit or (error.smaller and several)
        given_up = not waits and (error.never or batch.tries > self.retries)
        if waits or given_up:
            self.registry.ended([one.key for one in batch.jobs])
        if given_up:
            times = "" if batch.tries == 1 else f" {batch.tries} times"
            for one in batch.jobs:
                self.refused(one, f"{self.cluster.title} did not take it{times}: {error}")
        elif waits:
            batch.tries -= 1
            if several:
                half = (len(batch.jobs) + 1) // 2
                return [Batch(part, batch.tries) for part in (batch.jobs[:half], batch.jobs[half:])]
            self._limits[first.request.place] = time.monotonic() + LONGEST_WAIT
            self._queue.append(batch)
            if str(error) not in self._said:
                self._said.add(str(error))
                self.logger.warning(f"No more jobs are taken for now ({error}); the others wait for room")
        else:
            pause = min(LONGEST_WAIT, 2.0**batch.tries)
            self.logger.warning(
                f"Submitting {first.label}{f' and {len(batch.jobs) - 1} more' * several} failed ({error}); "
                f"try {batch.tries + 1} of {self.retries + 1} in {pause:.0f} s"
            )
            batch.due = time.monotonic() + pause
            self._queue.append(batch)
        return []

    def _find(self, token: str) -> str:
        view = self.cluster.look([]) or {}
        return next((array_of(id_) for id_, state in view.items() if token in state.comment), "")
