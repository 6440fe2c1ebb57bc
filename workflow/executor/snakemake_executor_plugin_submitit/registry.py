"""Which jobs were submitted: remembered on disk, so that a Snakemake that was killed finds them again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit.jobs import Batch, Fingerprint, Prepared, State, array_of, paths, task
from snakemake_executor_plugin_submitit.verdict import read_result


@dataclass
class Entry:
    """A job that was, or was about to be, submitted."""

    fingerprint: Fingerprint
    label: str
    workflow: str  # of which it is a job
    token: str  # the submission's unique name, which the queue shows in the comment
    index: int | None  # in the job array
    folder: Path
    submission: str = ""  # its id; "": Snakemake ended before it was known

    def job_id(self, view: Mapping[str, State]) -> str:
        """Return the job's id, if need be by its comment in the queue; '' if it cannot be found."""
        found = self.submission
        if not found:
            found = next((array_of(id_) for id_, state in view.items() if self.token in state.comment), "")
        return found and task(found, self.index)


@dataclass(frozen=True)
class Found:
    """What became of an earlier submission of a job: nothing, its like, or something that has to go."""

    job_id: str = ""
    state: str = ""
    same: bool = False
    difference: str = ""


class Registry:
    """A folder with a file for each submission: JSON objects, one a line, as things happen.

    What is about to be submitted is written before sbatch is called, so there is no moment at which a job is
    in the queue and unknown here. Workflows that run in one folder at a time never write the same file.
    """

    def __init__(self, folder: Path, workflow: str, warn: Callable[[str], Any] = print) -> None:
        """Read what is in `folder`; `workflow` is what tells this workflow from others."""
        self._folder, self._workflow, self._warn = folder, workflow, warn
        self._lock = threading.Lock()  # jobs are submitted from two threads
        self._entries: dict[str, Entry] = {}
        self._late: list[tuple[str, str]] = []  # what could not be written yet
        folder.mkdir(parents=True, exist_ok=True)
        submissions = set()
        for _, token, text in sorted(filter(None, map(_read, folder.glob("*.jsonl")))):
            for line in text.splitlines():
                with suppress(ValueError, KeyError, TypeError):  # a line cut off when Snakemake was killed
                    self._apply(token, json.loads(line))
                    submissions.add(token)  # of others that run now, the first line may not be there yet
        for token in submissions:
            self._remove_if_done(token)

    def find(self, key: str) -> Entry | None:
        """Return the newest submission of the job `key` that is not known to have ended."""
        return self._entries.get(key)

    def ids(self) -> list[str]:
        """Return the ids of all jobs that are not known to have ended."""
        with self._lock:
            return [entry.job_id({}) for entry in self._entries.values() if entry.submission]

    def of_this_workflow(self) -> list[Entry]:
        """Return this workflow's jobs that are not known to have ended."""
        with self._lock:
            return [entry for entry in self._entries.values() if entry.workflow == self._workflow]

    def intend(self, batch: Batch) -> None:
        """Note that jobs are about to be submitted, as an array if there are several.

        Raises:
            OSError: this cannot be written.
        """
        jobs = [[*one.fingerprint, one.label] for one in batch.jobs]
        line = {"workflow": self._workflow, "folder": str(batch.jobs[0].folder), "jobs": jobs}
        self._append(batch.token, line, must=True)

    def submitted(self, token: str, job_id: str) -> None:
        """Note the id that the submission `token` got."""
        self._append(token, {"id": job_id})

    def ended(self, keys: Iterable[str]) -> None:
        """Forget jobs whose end Snakemake was told."""
        by_token: dict[str, list[str]] = {}
        for key in keys:
            if entry := self._entries.get(key):
                by_token.setdefault(entry.token, []).append(key)
        for token, ended in by_token.items():
            self._append(token, {"ended": ended})

    def _append(self, token: str, line: dict[str, Any], must: bool = False) -> None:
        with self._lock:
            self._late.append((token, json.dumps(line)))
            try:
                while self._late:
                    name, text = self._late[0]
                    with (self._folder / f"{name}.jsonl").open("a") as file:
                        file.write(f"\n{text}\n")  # after whatever a full disk left of a line before
                    del self._late[0]
            except OSError as error:
                if must:
                    self._late.pop()
                    raise
                self._warn(f"{self._folder} cannot be written ({error}); jobs go on")
            self._apply(token, line)
            if not self._late:
                self._remove_if_done(token)

    def _remove_if_done(self, token: str) -> None:
        if not any(entry.token == token for entry in self._entries.values()):
            (self._folder / f"{token}.jsonl").unlink(missing_ok=True)

    def _apply(self, token: str, line: dict[str, Any]) -> None:
        if "jobs" in line:
            for index, (*hashes, label) in enumerate(line["jobs"]):
                place = index if len(line["jobs"]) > 1 else None
                one = Fingerprint(*hashes)
                folder = Path(line["folder"])
                self._entries[one.key] = Entry(one, label, line["workflow"], token, place, folder)
        for entry in self._entries.values():
            if "id" in line and entry.token == token:
                entry.submission = line["id"]
        for key in line.get("ended", []):
            if key in self._entries and self._entries[key].token == token:
                del self._entries[key]


def _read(file: Path) -> tuple[float, str, str] | None:
    """Return when a file was written, its token and its text; None if another workflow has removed it."""
    try:
        return file.stat().st_mtime, file.stem, file.read_text()
    except OSError:
        return None


def find(prepared: Prepared, entry: Entry, view: Mapping[str, State], started: float) -> Found:
    """Look in the queue for `entry`, an earlier submission of the same job.

    It counts if it runs, waits, or ended after this Snakemake began (`started`, seconds since the epoch). One
    that had ended before is no answer: Snakemake has looked at its outputs and wants the job to run.
    """
    job_id = entry.job_id(view)
    if not job_id:
        return Found()
    state, now, then = view.get(job_id), prepared.fingerprint, entry.fingerprint
    if state is None or state.ended:
        place = paths(entry.folder, job_id)
        result = read_result(place)
        late = result is not None and result.success and Path(place.result_pickle).stat().st_mtime > started
        return Found(job_id, "ended", True) if late and now.work == then.work else Found()
    if now.work != then.work:
        return Found(job_id, state.name, False, "command, parameters or inputs")
    if now.request != then.request and state.name == "PENDING":
        return Found(job_id, state.name, False, "resources")
    return Found(job_id, state.name, True)


def unwanted(
    entries: Iterable[Entry], view: Mapping[str, State], jobs: set[str], needed: set[str]
) -> tuple[list[Entry], list[Entry]]:
    """Return the entries whose jobs have to be cancelled, and those to be forgotten.

    A job that waits has to be `needed`; one that runs only has to be among the workflow's `jobs`: it may be
    finishing what Snakemake has just found done. What ended and is not needed any more is forgotten.
    """
    cancelled, forgotten = [], []
    for entry in entries:
        state = view.get(entry.job_id(view))
        keys = set(entry.fingerprint.key.split())
        if state is not None and not state.ended:
            if not keys & (needed if state.name == "PENDING" else jobs):
                cancelled.append(entry)
        elif not keys & needed:
            forgotten.append(entry)
    return cancelled, forgotten
