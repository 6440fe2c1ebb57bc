"""Image files into pixels of one size: in several processes, in constant memory, resumed where it was killed.

The images are converted in chunks, each of which becomes a file of its own. What comes out depends neither
on the number of processes nor on the size of the chunks.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL

from gdd.data.listing import Listing, reader
from gdd.data.transforms import Transform, Unusable, decode
from gdd.errors import UserError
from gdd.files import atomic_path
from gdd.progress import Display

CHUNK = 256  # images in a chunk
GIVE_UP = 1000  # unusable images beyond those allowed; then the rest is not even tried
NAMED = 20  # unusable images that the refusal names

log = logging.getLogger("gdd")


@dataclass(frozen=True)
class Chunk:
    """Images that become the bytes of one file, uint8 `[n, resolution, resolution, 3]`."""

    images: Listing
    transform: Transform | None
    resolution: int
    file: Path

    def finished(self) -> bool:
        """Whether the file is there with all images; where some were unusable they may be mended by now."""
        size = len(self.images) * self.resolution * self.resolution * 3
        return self.file.exists() and self.file.stat().st_size == size


def convert(
    listing: Listing,
    chosen: np.ndarray,
    transform: Transform | None,
    resolution: int,
    folder: Path,
    *,
    workers: int,
    allowed: int,
) -> tuple[list[Path], dict[str, str]]:
    """Convert the `chosen` images of a listing, in this order, into files below `folder`.

    What an earlier call for the same images has left there is kept, and anything else removed. The caller
    removes `folder`.

    Returns:
        The files in order, and the images that are in none of them with the reason for each.

    Raises:
        UserError: more images are unusable, of which the sentence names the first; or a worker died.
    """
    images = [listing.fingerprint(), hashlib.sha256(chosen.tobytes()).hexdigest()]
    facts = json.dumps([*images, resolution, transform, CHUNK, PIL.__version__])
    place = folder / hashlib.sha256(facts.encode()).hexdigest()[:16]
    for other in folder.glob("*/"):
        if other != place:
            shutil.rmtree(other)
    chunks = [
        Chunk(listing.only(chosen[start : start + CHUNK]), transform, resolution, place / f"{start:08d}")
        for start in range(0, len(chosen), CHUNK)
    ]
    left = [chunk for chunk in chunks if not chunk.finished()]
    done = len(chosen) - sum(len(chunk.images) for chunk in left)
    if done:
        log.info("Going on after %s of %s images.", f"{done:,}", f"{len(chosen):,}")
    unusable: dict[str, str] = {}
    with Display() as display:
        bar = display.bar(folder.parent.name, len(chosen), done=done)
        for chunk, found in _converted(left, workers):
            bar.advance(len(chunk.images))
            unusable |= found
            if len(unusable) > allowed + GIVE_UP:
                break
    if len(unusable) > allowed:
        raise UserError(_refusal(listing.path, unusable, allowed, rest_unknown=bar.done < len(chosen)))
    return [chunk.file for chunk in chunks], unusable


def convert_chunk(chunk: Chunk) -> dict[str, str]:
    """Write a chunk's file; return its unusable images, which the file lacks, and the reason for each."""
    rows, unusable = [], {}
    with reader(chunk.images.path) as read:
        for entry in chunk.images.entries(range(len(chunk.images))):
            try:
                rows.append(decode(read(entry), chunk.transform, chunk.resolution).tobytes())
            except Unusable as reason:
                unusable[entry.name] = str(reason)
    with atomic_path(chunk.file) as temporary:
        temporary.write_bytes(b"".join(rows))
    return unusable


def _converted(chunks: list[Chunk], workers: int) -> Iterator[tuple[Chunk, dict[str, str]]]:
    """Convert chunks in this process or in others; yield each with its unusable images, in order."""
    if workers == 1:
        yield from ((chunk, convert_chunk(chunk)) for chunk in chunks)
        return
    # Spawned, because a process with threads, as torch starts them, cannot be forked safely.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)
    try:
        yield from zip(chunks, pool.map(convert_chunk, chunks), strict=True)
    except BrokenProcessPool:
        raise UserError(
            "A process that converts images was killed, perhaps for want of memory; "
            "the same command goes on where it was, with fewer workers if need be."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its workers
    parent = multiprocessing.parent_process()
    assert parent

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    # A parent that is killed ends no worker, and they would wait for work for ever.
    threading.Thread(target=end_with_parent, daemon=True).start()


def _refusal(source: Path, unusable: dict[str, str], allowed: int, *, rest_unknown: bool) -> str:
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
