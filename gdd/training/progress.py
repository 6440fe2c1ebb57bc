"""How far a run is: a JSONL log, a live bar or plain lines, and a file that `gdd watch` reads."""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import socket
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from gdd.files import write_json, write_text
from gdd.progress import Display
from gdd.training.clock import Clock

WATCH_INTERVAL = 1.0  # seconds between two updates of progress.json
MEASUREMENT = "measurement"  # `event` of the lines that no losses stand in


def peak_memory() -> float:
    """Return the most memory the process has used so far, in MiB: the GPU's where it uses one."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_reserved() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


class Silence(Clock):
    """The progress of a process that is not the main one: only its clock runs."""

    def step(self, images: int, scalars: dict[str, float]) -> None:
        """Say nothing."""

    def measured(self, images: int, values: dict[str, float]) -> None:
        """Say nothing."""

    def alive(self) -> None:
        """Say nothing."""

    def close(self, status: str) -> None:
        """Say nothing."""


class TrainingProgress(Clock):
    """Follows one run from `start` images to `total`.

    Args:
        name: what the run is called.
        folder: receives `log.jsonl` (a line every `every` images) and `progress.json`.
        every: images between two lines of the log.
        seconds: training time spent before this start.
    """

    def __init__(
        self, name: str, folder: Path, *, start: int, total: int, every: int, seconds: float
    ) -> None:
        super().__init__(seconds)
        self.name = name
        self.folder = folder
        self.images = self.start = self._logged = start
        self.total = total
        self.every = every
        self._start_seconds = seconds
        self._sums: dict[str, float] = defaultdict(float)
        self._steps = 0
        self._latest: dict[str, float] = {}
        self._watched = 0.0
        self._measured = _last_measured(_drop_lines_after(folder / "log.jsonl", start))
        self._board = _tensorboard(folder / "tensorboard", start + 1)  # forgets what comes again
        self._display = Display()
        self._bar = self._display.__enter__().bar(name, total, done=start)

    def step(self, images: int, scalars: dict[str, float]) -> None:
        """Note that `images` have been seen, and the step's losses and counters."""
        self.images = images
        self._steps += 1
        for key, value in scalars.items():
            self._sums[key] += value
        if images // self.every > self._logged // self.every or images >= self.total:
            self._write_line()
        self.alive()
        self._show()

    def measured(self, images: int, values: dict[str, float]) -> None:
        """Note what was measured after `images` images, in a line of its own: the others hold means."""
        rounded = {key: _rounded(value) for key, value in values.items()}
        self._measured = {key: value for key, value in rounded.items() if value is not None}
        self._append({"images": images, "event": MEASUREMENT, **rounded, "seconds": round(self.seconds, 2)})
        self._show()

    def alive(self) -> None:
        """Say that the run goes on, to whoever watches."""
        now = time.monotonic()
        if now - self._watched >= WATCH_INTERVAL:
            self._watched = now
            self.publish("running")

    def publish(self, status: str) -> None:
        """Write `progress.json` for whoever watches; status is running, stopped, finished or failed."""
        rate = self.rate()
        facts = {
            "name": self.name,
            "status": status,
            "images": self.images,
            "total": self.total,
            "images_per_second": round(rate, 2),
            "seconds_left": round((self.total - self.images) / rate) if rate else None,
            "losses": {key: value for key, value in self._latest.items() if math.isfinite(value)},
            "measured": self._measured,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "updated": time.time(),
        }
        # A full disk must not end a run whose checkpoints still fit.
        with contextlib.suppress(OSError):
            write_json(self.folder / "progress.json", facts, lasting=False)  # no step waits for the disk

    def rate(self) -> float:
        """Return images per second since this start."""
        elapsed = self.seconds - self._start_seconds
        return (self.images - self.start) / elapsed if elapsed > 0 else 0.0

    def close(self, status: str) -> None:
        """Take the bar away and say how the run ended."""
        self.publish(status)
        self._display.__exit__(None, None, None)
        if self._board:
            self._board.close()
        print(
            f"{self.name}: {status} at {self.images:,} of {self.total:,} images, {self.seconds:.1f} s.",
            file=sys.stderr,
        )

    def _write_line(self) -> None:
        self._latest = {key: value / self._steps for key, value in self._sums.items()}
        line = {
            "images": self.images,
            **{key: _rounded(value) for key, value in self._latest.items()},
            "images_per_second": round(self.rate(), 2),
            "seconds": round(self.seconds, 2),
            "peak_memory_mib": round(peak_memory()),
        }
        self._append(line)
        self._sums.clear()
        self._steps = 0
        self._logged = self.images

    def _append(self, line: dict[str, Any]) -> None:
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._board:
            for key, value in line.items():
                if key not in ("images", "event") and value is not None:
                    self._board.add_scalar(key, value, line["images"])
            self._board.flush()

    def _show(self) -> None:
        losses = [f"{key} {value:.3f}" for key, value in self._latest.items() if "loss" in key]
        measured = [f"{key} {value:.4g}" for key, value in self._measured.items()]
        self._bar.update(self.images, " ".join([*losses, *measured]))


def _tensorboard(folder: Path, first: int) -> Any:
    """Return a writer of TensorBoard's files, which forget all from `first` on; None if not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder, purge_step=first)


def _rounded(value: float) -> float | None:
    """Return six digits of a scalar; None where it is not finite, for which JSON has no number."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _last_measured(lines: list[dict[str, Any]]) -> dict[str, float]:
    measured = [line for line in lines if line.get("event") == MEASUREMENT]
    aside = ("images", "event", "seconds")
    last = measured[-1] if measured else {}
    return {key: value for key, value in last.items() if key not in aside and value is not None}


def _drop_lines_after(path: Path, images: int) -> list[dict[str, Any]]:
    """Forget what was logged beyond the last checkpoint, which will be logged again; return what stays."""
    if not path.exists():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # the last line may be cut off
            entry: dict[str, Any] = json.loads(line)
            if entry["images"] <= images:
                kept.append(entry)
    write_text(path, "".join(f"{json.dumps(entry)}\n" for entry in kept))
    return kept
