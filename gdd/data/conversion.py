"""Image files into one array on disk: in parallel, in constant memory, and going on where it was stopped.

Workers write their rows straight into the unfinished array. What comes out depends neither on their number
nor on the size of the chunks they are given.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL

from gdd.data.listing import Listing
from gdd.data.reading import Entry, reader
from gdd.data.transforms import Transform, Unusable, decode
from gdd.data.unfinished import Unfinished
from gdd.errors import UserError

CHUNK = 256  # images a worker is given at a time
GIVE_UP = 1000  # unusable images beyond those allowed; then the rest is not even tried
NAMED = 20  # unusable images that the refusal names
SECONDS_BETWEEN_MESSAGES = 15.0

log = logging.getLogger("gdd")


@dataclass(frozen=True)
class Chunk:
    """What one worker has to do: read `entries` of `source` and write their rows into `part`."""

    index: int
    source: Path
    entries: list[Entry]
    part: Path
    offset: int  # of the first row, in bytes
    transform: Transform | None
    resolution: int


class Converted(NamedTuple):
    """What became of a chunk."""

    unusable: dict[str, str]  # the names of images whose rows are black, and why
    checksum: int  # CRC-32 of the rows


def convert_chunk(chunk: Chunk) -> Converted:
    """Write a chunk's rows."""
    rows = np.zeros((len(chunk.entries), chunk.resolution, chunk.resolution, 3), np.uint8)
    unusable = {}
    with reader(chunk.source) as read:
        for row, entry in zip(rows, chunk.entries, strict=True):
            try:
                row[:] = decode(read(entry), chunk.transform, chunk.resolution)
            except Unusable as reason:
                unusable[entry.name] = str(reason)
    with chunk.part.open("r+b") as file:
        file.seek(chunk.offset)
        file.write(rows.tobytes())
    return Converted(unusable, zlib.crc32(rows.tobytes()))


@dataclass(frozen=True)
class Conversion:
    """Which images of a listing become rows, in this order, and how."""

    listing: Listing
    chosen: np.ndarray  # indices into the listing
    transform: Transform | None
    resolution: int

    def unfinished(self, folder: Path) -> Unfinished:
        """Return the array in `folder` that takes the rows, yet to be entered."""
        shape = (len(self.chosen), self.resolution, self.resolution, 3)
        facts = [self.listing.fingerprint(), hashlib.sha256(self.chosen.tobytes()).hexdigest()]
        text = json.dumps([*facts, shape, self.transform, CHUNK, PIL.__version__])
        return Unfinished(folder, shape, CHUNK, hashlib.sha256(text.encode()).hexdigest())

    def run(self, target: Unfinished, workers: int, allowed: int) -> dict[str, str]:
        """Fill what is missing in `target`; return the unusable images and why, at most `allowed`.

        Chunks with such images do not count as done, so that the next attempt reads mended files again.

        Raises:
            UserError: more images are unusable, of which the sentence names the first; or a worker died.
        """
        progress = _Progress(len(self.chosen), min(len(target.done) * CHUNK, len(self.chosen)))
        unusable: dict[str, str] = {}
        for chunk, result in _converted(self._chunks(target), workers):
            if result.unusable:
                unusable |= result.unusable
            else:
                target.add(chunk.index, result.checksum)
            progress.add(len(chunk.entries))
            if len(unusable) > allowed + GIVE_UP:
                raise UserError(_refusal(self.listing.path, unusable, allowed, rest_unknown=True))
        if len(unusable) > allowed:
            raise UserError(_refusal(self.listing.path, unusable, allowed))
        return unusable

    def _chunks(self, target: Unfinished) -> Iterator[Chunk]:
        row_bytes = self.resolution * self.resolution * 3
        for index, start in enumerate(range(0, len(self.chosen), CHUNK)):
            if index not in target.done:
                entries = self.listing.entries(self.chosen[start : start + CHUNK])
                offset = target.offset + start * row_bytes
                yield Chunk(
                    index, self.listing.path, entries, target.part, offset, self.transform, self.resolution
                )


Pending = dict[concurrent.futures.Future[Converted], Chunk]


def _converted(chunks: Iterator[Chunk], workers: int) -> Iterator[tuple[Chunk, Converted]]:
    """Convert the chunks in this process or in `workers` others; they come back in any order."""
    if workers == 1:
        yield from ((chunk, convert_chunk(chunk)) for chunk in chunks)
        return
    # Spawned, because a process with threads, as torch starts them, cannot be forked safely.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_start_worker)
    pending: Pending = {}
    try:
        for chunk in chunks:
            pending[pool.submit(convert_chunk, chunk)] = chunk
            if len(pending) == 2 * workers:
                yield from _first_done(pending)
        while pending:
            yield from _first_done(pending)
    except BrokenProcessPool:
        raise UserError(
            "A process that converts images was killed, perhaps for want of memory; "
            "the same command goes on where it was, with fewer workers if need be."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _first_done(pending: Pending) -> Iterator[tuple[Chunk, Converted]]:
    for future in concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED).done:
        yield pending.pop(future), future.result()


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its workers
    parent = multiprocessing.parent_process()
    assert parent

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    # A parent that is killed ends no worker, and they would wait for work for ever.
    threading.Thread(target=end_with_parent, daemon=True).start()


class _Progress:
    def __init__(self, total: int, done: int) -> None:
        self.total, self.done = total, done
        self.start, self.start_done = time.monotonic(), done
        self.spoken = self.start
        if done:
            log.info("Going on after %s of %s images.", f"{done:,}", f"{total:,}")

    def add(self, images: int) -> None:
        self.done += images
        now = time.monotonic()
        if now - self.spoken >= SECONDS_BETWEEN_MESSAGES:
            self.spoken = now
            rate = (self.done - self.start_done) / (now - self.start)
            log.info("%s of %s images, %.0f a second.", f"{self.done:,}", f"{self.total:,}", rate)


def _refusal(source: Path, unusable: dict[str, str], allowed: int, *, rest_unknown: bool = False) -> str:
    shown = sorted(unusable)[:NAMED]
    reasons = "; ".join(f"{name} {unusable[name]}" for name in shown)
    more = f"; and {len(unusable) - len(shown):,} more" if len(unusable) > len(shown) else ""
    most = f", of which {allowed:,} may be skipped" if allowed else ""
    holds = f"{source} holds {'at least ' if rest_unknown else ''}{len(unusable):,} unusable image"
    skip = "" if rest_unknown else f", or skip them with --allow-corrupt {len(unusable)}"
    return (
        f"{holds}{'s'[: len(unusable) != 1]}{most}: {reasons}{more}. "
        f"Mend them and run the same command again, which reads only what is missing{skip}."
    )
