"""A job on its node: how often it was started, how far it got, what it uses, its processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import signal
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import psutil

WHOLE_FILE = 1 << 20  # bytes; of larger files that show progress the size counts


@dataclass
class Restarts:
    """How often one job was started and what it used, kept beside its pickle from one start to the next."""

    path: Path
    starts: int = 0
    stalled: int = 0  # starts in a row that found the same state as the one before
    seen: str = ""  # the state the last start found
    requeued: str = ""  # why the job last asked to be started again
    used: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what earlier starts noted at `path`; nothing if there were none."""
        try:
            data: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            data = {}
        known = {field.name for field in fields(cls)} - {"path"}
        return cls(path, **{key: value for key, value in data.items() if key in known})

    def start(self, state: str) -> None:
        """Note a start that finds `state`."""
        if self.starts:
            self.stalled = self.stalled + 1 if state == self.seen else 0
        self.starts += 1
        self.requeued = ""
        self.seen = state

    def write(self) -> bool:
        """Write to disk, at once or not at all; return whether it was possible."""
        data = asdict(self)
        del data["path"]
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        try:
            temporary.write_text(json.dumps(data))
            temporary.replace(self.path)
        except OSError as error:
            say(f"{self.path} could not be written: {error}")
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            return False
        return True

    def measure(self) -> None:
        """Note the memory in use, if it is the most so far."""
        total = 0
        for one in descendants():
            with contextlib.suppress(psutil.Error):
                total += one.memory_info().rss
        self.used["mem_mb"] = max(self.used.get("mem_mb", 0.0), total / 2**20)

    def account(self) -> None:
        """Add what this start took."""
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken = {
            "seconds": time.time() - psutil.Process().create_time(),
            "cpu_seconds": children.ru_utime + children.ru_stime,
        }
        for name, value in taken.items():
            self.used[name] = round(self.used.get(name, 0.0) + value, 1)
        self.used["mem_mb"] = round(max(self.used.get("mem_mb", 0.0), children.ru_maxrss / 1024), 1)
        self.used["starts"] = self.starts


def mark(path: str | None) -> str:
    """Return something that changes when the job behind `path` gets further, '' if nothing is there.

    A file counts by its content, a folder by the names and sizes of the files in it. Time stamps do not
    count: a checkpoint written a second time at the same step is no progress.
    """
    if not path:
        return ""
    place = Path(path)
    digest = hashlib.sha256()
    if place.is_file():
        files = [place]
    else:
        files = sorted(Path(folder) / name for folder, _, names in os.walk(place) for name in names)
    for file in files:
        try:
            size = file.stat().st_size
            content = file.read_bytes() if file == place and size <= WHOLE_FILE else b""
        except OSError:  # replaced at this moment
            continue
        digest.update(f"{file}\0{size}\0".encode() + content)
    return digest.hexdigest() if files else ""


def descendants(pid: int | None = None) -> list[psutil.Process]:
    """Return all processes below one, by default this one, without those that ended."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if one.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                    found.append(one)
    return found


def handles(pid: int, number: signal.Signals) -> bool:
    """Return whether process `pid` has a handler for a signal, i.e. does not die of it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    caught = next((line.split()[1] for line in lines if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (number - 1) & 1)


def send(processes: list[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to each process that is still there."""
    for one in processes:
        with contextlib.suppress(psutil.Error):
            one.send_signal(number)


def say(words: str) -> None:
    """Print to the job's log."""
    with contextlib.suppress(OSError):  # a full disk
        print(f"snakemake-executor-plugin-submitit: {words}", flush=True)
