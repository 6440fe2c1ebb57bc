"""Which jobs were submitted: remembered on disk, so that a Snakemake that was killed finds them again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class Print(NamedTuple):
    """What a job is: `key` says which (rule and outputs), the hashes whether it still is the same."""

    key: str
    work: str  # hash of what it does: command, parameters, inputs
    request: str  # hash of what it asks SLURM for


@dataclass(frozen=True)
class Entry:
    """A job that was, or was about to be, submitted."""

    print: Print
    token: str  # the submission's unique name, which the queue shows as comment
    index: int | None  # in the job array
    folder: Path
    job_id: str | None  # of the submission; None: Snakemake ended before it was known

    def full_id(self, job_id: str) -> str:
        """Return the id of this job if its submission has `job_id`."""
        return job_id if self.index is None else f"{job_id}_{self.index}"


class Registry:
    """A journal of submissions, one JSON object a line.

    What is about to be submitted is written before sbatch is called, so there is no moment at which a job is
    in the queue and unknown here.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()  # jobs are submitted from two threads
        self._entries: dict[str, Entry] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    self._apply(json.loads(line))
                except (ValueError, KeyError, TypeError):
                    continue  # the line that was being written when Snakemake was killed
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text("".join(f"{json.dumps(line)}\n" for line in self._lines()))
        temporary.replace(path)
        self._file = path.open("a", buffering=1)

    def ids(self) -> list[str]:
        """Return the ids of all jobs that are not known to have ended."""
        with self._lock:
            return [entry.full_id(entry.job_id) for entry in self._entries.values() if entry.job_id]

    def find(self, key: str) -> Entry | None:
        """Return the newest submission of the job `key` that is not known to have ended."""
        return self._entries.get(key)

    def intend(self, token: str, folder: Path, prints: Sequence[Print]) -> None:
        """Note that `prints` are about to be submitted, as an array if there are several."""
        self._append(
            {
                "token": token,
                "folder": str(folder),
                "array": len(prints) > 1,
                "jobs": [list(one) for one in prints],
            }
        )

    def submitted(self, token: str, job_id: str) -> None:
        """Note the id that the submission `token` got."""
        self._append({"token": token, "id": job_id})

    def ended(self, keys: Iterable[str]) -> None:
        """Forget jobs whose end Snakemake was told."""
        self._append({"ended": [key for key in keys if key in self._entries]})

    def _append(self, line: dict[str, Any]) -> None:
        with self._lock:
            self._apply(line)
            self._file.write(f"{json.dumps(line)}\n")

    def _apply(self, line: dict[str, Any]) -> None:
        if "ended" in line:
            for key in line["ended"]:
                self._entries.pop(key, None)
        elif "print" in line:
            one = Print(*line["print"])
            self._entries[one.key] = Entry(
                one, line["token"], line["index"], Path(line["folder"]), line["id"]
            )
        elif "jobs" in line:
            for index, fields in enumerate(line["jobs"]):
                one = Print(*fields)
                place = index if line["array"] else None
                self._entries[one.key] = Entry(one, line["token"], place, Path(line["folder"]), None)
        else:
            for key, entry in self._entries.items():
                if entry.token == line["token"]:
                    self._entries[key] = Entry(
                        entry.print, entry.token, entry.index, entry.folder, line["id"]
                    )

    def _lines(self) -> list[dict[str, Any]]:
        """Return the shortest journal that says the same."""
        return [
            {
                "token": entry.token,
                "folder": str(entry.folder),
                "index": entry.index,
                "print": list(entry.print),
                "id": entry.job_id,
            }
            for entry in self._entries.values()
        ]
