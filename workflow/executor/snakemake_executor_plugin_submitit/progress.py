"""A job on its node: how often it was started, how far it got, what it uses, its processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import psutil

WHOLE_FILE = 1 << 20  # bytes; of larger files that show progress the size counts


@dataclass
class Restarts:
    """How often one job was started and what it used, kept beside its pickle from one start to the next."""

    starts: int = 0
    stalled: int = 0  # starts in a row that found the same state as the one before
    seen: str = ""  # the state the last start found
    requeued: str = ""  # why the job last asked to be started again
    used: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what earlier starts noted at `path`; nothing if there were none."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return cls()

    def write(self, path: Path) -> None:
        """Write to disk, if that is possible (else OSError)."""
        write(path, json.dumps(asdict(self)).encode())

    def start(self, state: str) -> None:
        if self.starts:
            self.stalled = self.stalled + 1 if state == self.seen else 0
        self.starts += 1
        self.requeued = ""
        self.seen = state

    def measure(self) -> None:
        """Note the memory in use, if it is the most so far."""
        total = 0
        for one in descendants():
            with contextlib.suppress(psutil.Error):
                total += one.memory_info().rss
        self.used["mem_mb"] = max(self.used.get("mem_mb", 0.0), total / 2**20)

    def account(self) -> None:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        before = self.used
        seconds = time.time() - psutil.Process().create_time()
        self.used = {
            "seconds": round(before.get("seconds", 0.0) + seconds, 1),
            "cpu_seconds": round(before.get("cpu_seconds", 0.0) + children.ru_utime + children.ru_stime, 1),
            "mem_mb": round(max(before.get("mem_mb", 0.0), children.ru_maxrss / 1024), 1),
            "starts": self.starts,
        }


def mark(path: str) -> str:
    """Return something that changes when the job behind `path` gets further, '' if nothing is there.

    A file counts by its content, a folder by the names and sizes of the files in it. Time stamps do not
    count: a checkpoint written a second time at the same step is no progress.
    """
    if not path:
        return ""
    place = Path(path)
    digest = hashlib.sha256()
    below = sorted(Path(folder) / name for folder, _, names in os.walk(place) for name in names)
    files = [place] if place.is_file() else below
    for file in files:
        try:
            size = file.stat().st_size
            content = file.read_bytes() if file == place and size <= WHOLE_FILE else b""
        except OSError:  # replaced at this moment
            continue
        digest.update(f"{file}\0{size}\0".encode() + content)
    return digest.hexdigest() if files else ""


def pickled(folder: Path, token: str, index: int | str | None) -> Path:
    """Return where the command lies that a job, or one of an array, will run."""
    return folder / f"{token}_{index or 0}.pkl"


def write(path: Path, content: bytes) -> None:
    """Write a file at once or, with an OSError, not at all."""
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def log_end(log: Path, size: int, start: int = 0) -> str:
    """Return the last `size` bytes of a log, after `start`, as text; nothing if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, log.stat().st_size - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


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
    for one in processes:
        with contextlib.suppress(psutil.Error):
            one.send_signal(number)


def say(words: str) -> None:
    with contextlib.suppress(OSError):  # a full disk
        print(f"snakemake-executor-plugin-submitit: {words}", flush=True)


def ask(*command: str, patience: float = 60.0, without: Iterable[str] = ()) -> tuple[str, str]:
    """Return what a command of SLURM's printed, and if it failed, or took `patience` seconds, why."""
    defaults = ("SQUEUE_", "SACCT_", "SCANCEL_")  # would change what is asked
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in without and not name.startswith(defaults)
    }
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=patience,
            check=False,
            start_new_session=True,  # Ctrl-C is for Snakemake
        )
    except subprocess.TimeoutExpired:
        return "", f"{command[0]} did not answer within {patience:.0f} seconds"
    except OSError as error:
        return "", str(error)
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
    failure = "; ".join(re.sub(r"^\w+: error: ", "", line) for line in said)
    failure = failure or f"{command[0]} ended with status {done.returncode} and said nothing"
    return done.stdout.strip(), failure if done.returncode else ""
