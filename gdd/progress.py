"""How far something is: bars on a terminal; now and then a line anywhere else, or with GDD_PROGRESS=plain."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Literal, Self

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TaskID, TextColumn

PROGRESS_VARIABLE = "GDD_PROGRESS"  # "plain": lines also on a terminal
PLAIN_INTERVAL = 10.0  # seconds between two lines of a bar

log = logging.getLogger("gdd")


class Display:
    """Shows one bar or several while entered.

    Args:
        shown: whether to show anything; of several processes only one should.
    """

    def __init__(self, *, shown: bool = True) -> None:
        self.shown = shown
        self.bars: Progress | None = None
        console = Console(stderr=True)
        if shown and console.is_terminal and os.environ.get(PROGRESS_VARIABLE) != "plain":
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
            self.bars = Progress(*columns, console=console, transient=True)

    def __enter__(self) -> Self:
        if self.bars:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars:
            self.bars.stop()

    def bar(
        self, name: str, total: int | None, *, done: int = 0, unit: Literal["images", "bytes"] = "images"
    ) -> Bar:
        """Return a new bar, of which `done` was there before; the total may be unknown."""
        return Bar(self, name, total, done, unit)

    def say(self, sentence: str) -> None:
        """Show a sentence above the bars; it goes to the log where there are none."""
        if self.bars:
            self.bars.console.print(sentence, markup=False, highlight=False)
        else:
            log.info(sentence)


class Bar:
    """How far one thing is (made by `Display.bar`)."""

    def __init__(self, display: Display, name: str, total: int | None, done: int, unit: str) -> None:
        self.display, self.name, self.total, self.unit = display, name, total, unit
        self.done = self._start = done
        self._began = self._spoken = time.monotonic()
        self._task: TaskID | None = None
        if display.bars:
            self._task = display.bars.add_task(name, total=total, completed=done, text="")

    def advance(self, more: int) -> None:
        """Note that so many more are done."""
        self.update(self.done + more)

    def update(self, done: int, facts: str = "") -> None:
        """Note how many are done, and show `facts` beside it."""
        self.done = done
        now = time.monotonic()
        if self.display.bars and self._task is not None:
            self.display.bars.update(self._task, completed=done, text=self._text(now, facts))
        elif self.display.shown and now - self._spoken >= PLAIN_INTERVAL:
            self._spoken = now
            print(f"{self.name}: {self._text(now, facts)}", file=sys.stderr, flush=True)

    def _text(self, now: float, facts: str) -> str:
        rate = (self.done - self._start) / max(now - self._began, 1e-9)
        amount = decimal if self.unit == "bytes" else "{:,}".format
        words = [amount(self.done) + (f"/{amount(self.total)}" if self.total is not None else "")]
        words.append(f"{decimal(round(rate))}/s" if self.unit == "bytes" else f"{rate:,.0f} img/s")
        if facts:
            words.append(facts)
        if self.total is not None and rate:
            words.append(f"{timedelta(seconds=round((self.total - self.done) / rate))} left")
        return " ".join(words)


@contextlib.contextmanager
def progress_bar(name: str, total: int, *, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Show one bar, and yield what to call with the number of images that are done since the last call."""
    with Display(shown=shown) as display:
        yield display.bar(name, total).advance
