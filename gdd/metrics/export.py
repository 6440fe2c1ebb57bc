"""Generated images as files: an array, a folder of PNGs, or one picture with all of them in a grid."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gdd.errors import UserError
from gdd.files import atomic_path, write_npz
from gdd.metrics.sources import ImageSource
from gdd.training.world import ALONE, World

BATCH = 250
PER_FOLDER = 1000  # PNGs, as EDM lays out its samples
MOST_IN_A_GRID = 4096


def export(
    source: ImageSource,
    out: str | Path,
    *,
    start: int,
    count: int,
    shards: World = ALONE,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write the images `start` to `start + count` of a source.

    `out` decides how: `.npz` (uint8 [count, H, W, C] as `images`), `.png` (a grid), or a name without an
    ending for a folder of PNGs called by their index, in which order they are read again.

    Raises:
        UserError: another ending, too many images for a grid, or a folder that holds something already.
    """
    out = Path(out)
    write = _writer(out, count)
    parts = []
    with shards.same_error():
        for first, size in shards.batches(start, count, BATCH):
            parts.append(source.images(first, size).cpu())
            if progress:
                progress(size)
    channels, height, width = source.shape
    mine = torch.cat(parts) if parts else torch.zeros(0, height, width, channels, dtype=torch.uint8)
    gathered = shards.gather(mine)
    if shards.main:
        write(out, torch.cat(gathered).numpy(), start)


def _writer(out: Path, count: int) -> Callable[[Path, np.ndarray, int], None]:
    """Return what writes images in the form that `out` asks for, if it can."""
    if out.suffix == ".npz":
        return _write_array
    if out.suffix == ".png":
        if count > MOST_IN_A_GRID:
            raise UserError(
                f"A grid of {count:,} images is more than anybody can see; at most {MOST_IN_A_GRID:,}, "
                f"or give a folder or an .npz instead of {out}."
            )
        return _write_grid
    if out.suffix:
        raise UserError(f"{out} should end in .npz, in .png for a grid, or in nothing for a folder of PNGs.")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out} holds something already; give a new folder.")
    return _write_folder


def _write_array(out: Path, images: np.ndarray, start: int) -> None:  # noqa: ARG001
    write_npz(out, images=images)


def _write_grid(out: Path, images: np.ndarray, start: int) -> None:  # noqa: ARG001
    with atomic_path(out) as temporary:
        Image.fromarray(grid(images)).save(temporary)


def _write_folder(out: Path, images: np.ndarray, start: int) -> None:
    partial = out.with_name(f".{out.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    for index, image in enumerate(images, start):
        folder = partial / f"{index // PER_FOLDER * PER_FOLDER:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = image[:, :, 0] if image.shape[2] == 1 else image
        Image.fromarray(pixels).save(folder / f"{index:08d}.png")
    if out.is_dir():
        out.rmdir()  # empty, or it would have been refused
    partial.rename(out)


def grid(images: np.ndarray) -> np.ndarray:
    """Return images [N, H, W, C] side by side, row by row, as nearly square as their number allows."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = np.zeros((rows * columns, height, width, channels), np.uint8)
    cells[:count] = images
    cells = cells.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    whole = cells.reshape(rows * height, columns * width, channels)
    return whole[:, :, 0] if channels == 1 else whole
