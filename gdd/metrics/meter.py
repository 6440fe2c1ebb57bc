"""How far a pass over images is: a bar on a terminal, now and then a line anywhere else."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gdd.training.progress import PLAIN_INTERVAL, PROGRESS_VARIABLE

Advance = Callable[[int], None]  # told how many more images are done


@contextlib.contextmanager
def meter(name: str, total: int, *, shown: bool = True) -> Iterator[Advance]:
    """Yield what to call with the number of images after every batch.

    Args:
        name: what is being done.
        total: images, of this process.
        shown: whether to say anything; only one of several processes should.
    """
    console = Console(stderr=True)
    if not shown:
        yield lambda _: None
    elif console.is_terminal and os.environ.get(PROGRESS_VARIABLE) != "plain":
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bars:
            task = bars.add_task(name, total=total)
            yield lambda images: bars.advance(task, images)
    else:
        yield _lines(name, total)


def _lines(name: str, total: int) -> Advance:
    began = said = time.monotonic()
    done = 0

    def advance(images: int) -> None:
        nonlocal done, said
        done += images
        now = time.monotonic()
        if now - said >= PLAIN_INTERVAL:
            said = now
            rate = done / (now - began)
            left = (total - done) / rate
            print(
                f"{name}: {done:,}/{total:,} {rate:,.0f} img/s {left:,.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    return advance
