"""Generated images as files: an array, a folder of PNGs, or one picture with all of them in a grid."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gdd.errors import UserError
from gdd.files import atomic_path, write_npz
from gdd.metrics.sources import Source
from gdd.progress import progress_bar
from gdd.training.world import ALONE, World

PER_FOLDER = 1000  # PNGs, as EDM lays out its samples


def export(source: Source, out: Path, *, start: int, count: int, world: World = ALONE) -> None:
    """Write the images `start` to `start + count` of a source.

    `out` decides how: `.npz` (uint8 [count, H, W, C] as `images`), `.png` (a grid), or a name without an
    ending for a folder of PNGs called by their index, in which order they are read again.

    Raises:
        UserError: another ending, or a folder that holds something already.
    """
    if out.suffix not in (".npz", ".png", ""):
        raise UserError(f"{out} should end in .npz, in .png for a grid, or in nothing for a folder of PNGs.")
    if not out.suffix and (out.is_file() or (out.is_dir() and any(out.iterdir()))):
        raise UserError(f"{out} holds something already; give a new folder.")
    mine = list(world.batches(start, count, source.batch))
    channels, height, width = source.shape
    parts = [torch.zeros(0, height, width, channels, dtype=torch.uint8)]
    total = sum(size for _, size in mine)
    with world.same_error(), progress_bar(str(out), total, shown=world.main) as advance:
        for first, size in mine:
            parts.append(source.images(first, size).cpu())
            advance(size)
    gathered = world.gather(torch.cat(parts))
    if not world.main:
        return
    images = torch.cat(gathered).numpy()
    if out.suffix == ".npz":
        write_npz(out, images=images)
    elif out.suffix == ".png":
        with atomic_path(out) as temporary:
            Image.fromarray(_grid(images)).save(temporary)
    else:
        _write_folder(out, images, start)


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


def _grid(images: np.ndarray) -> np.ndarray:
    """Return images [N, H, W, C] side by side, row by row, as nearly square as their number allows."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = np.zeros((rows * columns, height, width, channels), np.uint8)
    cells[:count] = images
    cells = cells.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    whole = cells.reshape(rows * height, columns * width, channels)
    return whole[:, :, 0] if channels == 1 else whole
