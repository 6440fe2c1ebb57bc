"""How far a download is: a bar on a terminal, now and then a line anywhere else."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as RichProgress

SECONDS_BETWEEN_LINES = 10.0

log = logging.getLogger("gdd")


class Progress(Protocol):
    """Told about one file after the other."""

    def name(self, name: str) -> None:
        """Another file is next."""

    def begin(self, done: int, total: int | None) -> None:
        """Bytes begin to come, `done` of them being there from before."""

    def update(self, done: int) -> None:
        """So many bytes are there."""

    def say(self, sentence: str) -> None:
        """Something happened."""


def readable(count: float | None) -> str:
    """Return a number of bytes as people say it, in powers of 1000."""
    if count is None:
        return "size unknown"
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"


class Lines:
    """Lines in the log."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._name = ""
        self._total: int | None = None
        self._last = 0.0

    def name(self, name: str) -> None:
        """Another file is next."""
        self._name = name

    def begin(self, done: int, total: int | None) -> None:
        """Bytes begin to come, `done` of them being there from before."""
        self._total = total
        self._last = self._clock()
        self.say(f"{self._name}: {readable(total)}" + (f", {readable(done)} are there" if done else ""))

    def update(self, done: int) -> None:
        """Say how far it is, if it is time to."""
        now = self._clock()
        if now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            share = f" ({done / self._total:.0%})" if self._total else ""
            self.say(f"{self._name}: {readable(done)}{share}")

    def say(self, sentence: str) -> None:
        """Log a sentence."""
        log.info(sentence)


class Bar:
    """A bar with the rate and the time left."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def name(self, name: str) -> None:
        """Another file is next; the bar of the last one stays."""
        self._task = self._bars.add_task(name, total=None, start=False)

    def begin(self, done: int, total: int | None) -> None:
        """Bytes begin to come, `done` of them being there from before."""
        if self._task is not None:
            # A fresh start, so that bytes from before do not count towards the rate.
            self._bars.reset(self._task, completed=done, total=total)

    def update(self, done: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.update(self._task, completed=done)

    def say(self, sentence: str) -> None:
        """Print a sentence above the bars."""
        self._bars.console.print(sentence, markup=False, highlight=False)


@contextlib.contextmanager
def show_progress() -> Iterator[Progress]:
    """Yield whichever suits where standard error leads."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=console) as bars:
        yield Bar(bars)
