"""Image files into pixels of one size, byte for byte as EDM's preparation makes them.

They are converted in chunks, in several processes and in constant memory. Each chunk becomes a file of its
own, from which a preparation goes on that was killed. What comes out depends neither on the number of
processes nor on the size of the chunks. Nothing here imports torch, which every process would load.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError

from gdd.data.listing import Listing, Unusable, reader
from gdd.errors import UserError, in_a_line
from gdd.files import atomic_path
from gdd.progress import Display

CHUNK = 256  # images in a chunk

log = logging.getLogger("gdd")

Transform = Literal["resize", "center-crop"]

# Pillow turns these into 8-bit RGB by a rule one can rely on: grey is repeated, a palette looked up, CMYK
# inverted without a colour profile, alpha dropped. Of 16-bit and float grey it would clip what is above 255.
CONVERTIBLE = {"1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"}


# The formats of `listing.ENDINGS`, whatever a file is called: for others Pillow may start another program.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MOST_PIXELS = 10**8


def open_image(content: bytes) -> Image.Image:
    """Return an image of which nothing but the header has been read.

    Raises:
        Unusable: it has too many pixels.
    """
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        raise Unusable(f"is {image.width}x{image.height}, more than {MOST_PIXELS:,} pixels")
    return image


def decode(content: bytes, transform: Transform | None, resolution: int) -> np.ndarray:
    """Turn an image file's bytes into uint8 `[resolution, resolution, 3]`.

    Orientation in EXIF is not applied, and of 16 bits per RGB channel the upper 8 are taken, both as Pillow
    opens a file.

    Raises:
        Unusable: the file is no image, is damaged, or cannot become RGB of that size.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ImageNet is full of odd EXIF blocks, which nothing here reads
        try:
            with open_image(content) as image:
                image.load()
                return fit(image, transform, resolution)
        except UnidentifiedImageError:
            raise Unusable("is not an image that Pillow can read" if content else "is empty") from None
        except Unusable:
            raise
        except Exception as error:  # Pillow's readers raise anything from SyntaxError to struct.error
            raise Unusable(f"is damaged ({in_a_line(error)})") from None


def fit(image: Image.Image, transform: Transform | None, resolution: int) -> np.ndarray:
    """Turn an image into uint8 `[resolution, resolution, 3]`.

    `resize` scales the whole image, whatever its aspect; `center-crop` takes the centred square of the short
    side first; None takes an image that has its size already (EDM, arXiv:2206.00364, published preparation).

    Raises:
        Unusable: the colour mode has no 8-bit RGB, or the size is wrong where nothing is scaled.
    """
    if image.mode not in CONVERTIBLE:
        raise Unusable(f"has the colour mode {image.mode}, which has no faithful 8-bit RGB; convert it first")
    width, height = image.size
    if transform is None and (width, height) != (resolution, resolution):
        raise Unusable(f"is {width}x{height}, not {resolution}x{resolution}")
    if transform == "center-crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    # RGB comes before scaling: a palette's indices must not be averaged.
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return np.asarray(rgb.resize((resolution, resolution), Image.Resampling.LANCZOS))


def convert(
    images: Listing, transform: Transform | None, resolution: int, folder: Path, workers: int
) -> tuple[list[Path], dict[str, str]]:
    """Convert images into files below `folder`, which the caller removes.

    What an earlier call for the same images has left there is kept, and anything else removed.

    Returns:
        The files in order, and the images that are in none of them with the reason for each.
    """
    facts = json.dumps([images.fingerprint(), resolution, transform, CHUNK, PIL.__version__])
    place = folder / hashlib.sha256(facts.encode()).hexdigest()[:16]
    for other in folder.glob("*/"):
        if other != place:
            shutil.rmtree(other)
    total = len(images)
    chunks = {
        place / f"{start:08d}": images.only(range(start, min(start + CHUNK, total)))
        for start in range(0, total, CHUNK)
    }
    # A file that lacks an unusable image is made again: by now the image may be mended.
    size = resolution * resolution * 3
    left = {
        file: chunk
        for file, chunk in chunks.items()
        if not file.exists() or file.stat().st_size != len(chunk) * size
    }
    done = total - sum(map(len, left.values()))
    if done:
        log.info("Going on after %s of %s images.", f"{done:,}", f"{total:,}")
    unusable: dict[str, str] = {}
    work = functools.partial(convert_chunk, transform=transform, resolution=resolution)
    with Display() as display:
        bar = display.bar(folder.parent.name, total, done=done)
        for chunk, found in zip(left.values(), _converted(work, left, workers), strict=True):
            bar.advance(len(chunk))
            unusable |= found
    return list(chunks), unusable


def convert_chunk(
    file: Path, images: Listing, transform: Transform | None, resolution: int
) -> dict[str, str]:
    """Write images into a file, uint8 `[n, resolution, resolution, 3]`.

    Returns:
        The unusable ones, which the file lacks, and the reason for each.
    """
    rows, unusable = [], {}
    with reader(images.path) as read:
        for entry in images:
            try:
                rows.append(decode(read(entry), transform, resolution).tobytes())
            except Unusable as reason:
                unusable[entry.name] = str(reason)
    with atomic_path(file) as temporary:
        temporary.write_bytes(b"".join(rows))
    return unusable


def _converted(
    work: Callable[[Path, Listing], dict[str, str]], chunks: Mapping[Path, Listing], workers: int
) -> Iterator[dict[str, str]]:
    """Convert chunks in this process or in others; yield the unusable images of each, in order."""
    if workers == 1:
        yield from map(work, chunks, chunks.values())
        return
    # Spawned, because a process with threads, as torch starts them, cannot be forked safely.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)
    try:
        yield from pool.map(work, chunks, chunks.values())
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
