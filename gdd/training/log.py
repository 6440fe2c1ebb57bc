"""How far a run is: `log.jsonl`, a bar or lines, and `progress.json`, which `gdd watch` reads."""

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
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch

from gdd.errors import Stopped
from gdd.files import write_json, write_text
from gdd.progress import Display

LINES = 100  # of a run's log, or one a step
WATCH_INTERVAL = 1.0  # seconds between two updates of progress.json


def peak_memory() -> float:
    """Return the most memory the process has used so far, in MiB: the GPU's where it uses one."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_reserved() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


class TrainingLog:
    """Follows one run, while entered, and counts its time.

    Args:
        name: what the run is called.
        folder: gets `log.jsonl` and `progress.json`; None, in all but the main process, writes nothing.
        start: images seen before; lines of the log beyond them are forgotten, because they come again.
        total: images at the end.
        seconds: training time before this start.
    """

    def __init__(self, name: str, folder: Path | None, start: int, total: int, seconds: float) -> None:
        self.name = name
        self.folder = folder
        self.images = self.start = self._logged = start
        self.total = total
        self.every = max(total // LINES, 1)
        self._before = seconds
        self._began = time.monotonic() - seconds
        self._sums: dict[str, float] = defaultdict(float)
        self._steps = 0
        self._losses: dict[str, float] = {}
        self._measured: dict[str, float] = {}
        self._watched = 0.0
        self._display = Display(shown=folder is not None)
        self._bar = self._display.bar(name, total, done=start)
        if folder:
            _cut(folder / "log.jsonl", start)

    def __enter__(self) -> Self:
        self._display.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._display.__exit__()
        if self.folder:
            status = "finished" if kind is None else "stopped" if issubclass(kind, Stopped) else "failed"
            self._publish(status)
            seen = f"{self.images:,} of {self.total:,} images, {self.seconds:.1f} s"
            print(f"{self.name}: {status} at {seen}.", file=sys.stderr)

    @property
    def seconds(self) -> float:
        """Training time over all starts."""
        return time.monotonic() - self._began

    def due(self, images: int) -> bool:
        """Return whether a line is due after so many images."""
        return images // self.every > self._logged // self.every or images >= self.total

    def step(self, images: int, scalars: dict[str, float]) -> None:
        """Note the losses and counters of the step that ended after `images`.

        A line of the log holds the mean since the line before.
        """
        self._steps += 1
        for key, value in scalars.items():
            self._sums[key] += value
        self.advance(max(images, self.images))
        if self.due(images):
            self._losses = {key: value / self._steps for key, value in self._sums.items()}
            losses = {key: _rounded(value) for key, value in self._losses.items()}
            rate = round(self._rate(), 2)
            if self.folder:
                self._append(losses | {"images_per_second": rate}, peak_memory_mib=round(peak_memory()))
            self._sums.clear()
            self._steps, self._logged = 0, images

    def advance(self, images: int) -> None:
        """Note that `images` have been seen; their losses may follow."""
        self.images = images
        if not self.folder:
            return
        shown = {key: value for key, value in self._losses.items() if "loss" in key} | self._measured
        self._bar.update(images, " ".join(f"{key} {value:.4g}" for key, value in shown.items()))
        self.alive()

    def measure(self, function: Callable[[], dict[str, float] | None]) -> None:
        """Call a function and write a line of its own for its values; its time is no training time."""
        began = time.monotonic()
        values = function()
        self._began += time.monotonic() - began
        if values is not None:
            rounded = {key: _rounded(value) for key, value in values.items()}
            self._measured = {key: value for key, value in rounded.items() if value is not None}
            self._append({"event": "measurement", **rounded})

    def alive(self) -> None:
        """Tell `gdd watch` that the run goes on."""
        if time.monotonic() - self._watched >= WATCH_INTERVAL:
            self._watched = time.monotonic()
            self._publish("running")

    def _append(self, values: dict[str, Any], **more: Any) -> None:
        assert self.folder
        line = {"images": self.images, **values, "seconds": round(self.seconds, 2), **more}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _publish(self, status: str) -> None:
        assert self.folder
        rate = self._rate()
        facts = {
            "name": self.name,
            "status": status,
            "images": self.images,
            "total": self.total,
            "images_per_second": round(rate, 2),
            "seconds_left": round((self.total - self.images) / rate) if rate else None,
            "losses": {key: value for key, value in self._losses.items() if math.isfinite(value)},
            "measured": self._measured,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "updated": time.time(),
        }
        # A full disk must not end a run whose checkpoints still fit.
        with contextlib.suppress(OSError):
            write_json(self.folder / "progress.json", facts, lasting=False)  # no step waits for the disk

    def _rate(self) -> float:
        """Return images per second since this start."""
        elapsed = self.seconds - self._before
        return (self.images - self.start) / elapsed if elapsed > 0 else 0.0


def _rounded(value: float) -> float | None:
    """Return six digits of a scalar; None where it is not finite, for which JSON has no number."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _cut(path: Path, images: int) -> None:
    """Remove the lines of a log beyond `images`."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        # The last line may be cut off, and a damaged disk leave anything.
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            if json.loads(line)["images"] <= images:
                kept.append(line)
    write_text(path, "".join(f"{line}\n" for line in kept))
