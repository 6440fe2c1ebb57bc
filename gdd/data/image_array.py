"""A data set on disk: one memory-mapped uint8 array of images, its labels, and what it is."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gdd.config.records import Part
from gdd.errors import UserError
from gdd.files import atomic_path, read_json, write_json
from gdd.randomness import stream

BLOCK = 1 << 22  # bytes read at a time of arrays larger than memory


@dataclass(frozen=True)
class ImageArray:
    """Images `[N, H, W, C]` uint8 (memory-mapped), labels `[N]` int64, and the description beside them."""

    images: np.ndarray
    labels: np.ndarray
    description: dict[str, Any]

    @property
    def name(self) -> str:
        """The data set's name."""
        return str(self.description["name"])

    @property
    def sha256(self) -> str:
        """The hash of images and labels, which decides whether two arrays are the same data."""
        return str(self.description["sha256"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """One image's (C, H, W)."""
        _, height, width, channels = self.images.shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def open(cls, folder: str | Path) -> ImageArray:
        """Open what `write` wrote, by its folder or a JSON file in it, without reading the images.

        Raises:
            UserError: a file is missing, or the parts do not fit together.
        """
        folder = Path(folder)
        if folder.suffix == ".json":
            folder = folder.parent
        description = read_json(folder / "dataset.json")
        try:
            images = np.load(folder / "images.npy", mmap_mode="r")
            labels = np.load(folder / "labels.npy")
        except (FileNotFoundError, ValueError, EOFError) as error:
            raise UserError(f"The data set in {folder} cannot be read ({error}); prepare it again.") from None
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(labels):
            raise UserError(
                f"The data set in {folder} is not a uint8 array [N, H, W, C] with N labels; prepare it again."
            )
        return cls(images, labels, description)


def write(folder: Path, images: np.ndarray, labels: np.ndarray, description: dict[str, Any]) -> ImageArray:
    """Write a data set; `dataset.json`, which makes it valid, comes last."""
    digest = hashlib.sha256(np.ascontiguousarray(images).tobytes())
    digest.update(labels.astype("<i8").tobytes())
    (folder / "dataset.json").unlink(missing_ok=True)
    for name, array in (("images", images), ("labels", labels.astype(np.int64))):
        with atomic_path(folder / f"{name}.npy") as temporary:
            _save(temporary, array)
    _describe(folder, images.shape, digest.hexdigest(), description)
    return ImageArray.open(folder)


def _describe(folder: Path, shape: tuple[int, ...], sha256: str, description: dict[str, Any]) -> None:
    facts = dict(zip(("images", "height", "width", "channels"), shape, strict=True))
    # What a workflow watches: it says nothing of titles and places, so it is equal whenever the data are.
    write_json(folder / "identity.json", {**facts, "sha256": sha256})
    write_json(folder / "dataset.json", {**description, **facts, "sha256": sha256})


def adopt(folder: Path, part: Path, labels: np.ndarray, description: dict[str, Any]) -> ImageArray:
    """Make a data set of images that are on disk already; `part`, a .npy file in `folder`, becomes its array.

    The files are those `write` would write, but the images are never in memory together.
    """
    images = np.load(part, mmap_mode="r")
    digest = hashlib.sha256()
    with part.open("r+b") as file:
        file.seek(images.offset)
        # Read, not mapped: mapped pages would count as this process's memory.
        while block := file.read(BLOCK):
            digest.update(block)
        os.fsync(file.fileno())
    digest.update(labels.astype("<i8").tobytes())
    (folder / "dataset.json").unlink(missing_ok=True)
    with atomic_path(folder / "labels.npy") as temporary:
        _save(temporary, labels.astype(np.int64))
    part.replace(folder / "images.npy")
    _describe(folder, images.shape, digest.hexdigest(), description)
    return ImageArray.open(folder)


def keep_rows(part: Path, kept: np.ndarray) -> None:
    """Take the rows out of a .npy file of images that the boolean mask `kept` [N] does not keep."""
    images = np.load(part, mmap_mode="r")
    header = {"descr": "|u1", "fortran_order": False, "shape": (int(kept.sum()), *images.shape[1:])}
    size = int(np.prod(images.shape[1:]))
    rows = max(1, BLOCK // size)
    with part.open("rb") as old, atomic_path(part) as temporary, temporary.open("wb") as new:
        old.seek(images.offset)
        np.lib.format.write_array_header_1_0(new, header)
        for start in range(0, len(images), rows):
            block = np.fromfile(old, np.uint8, rows * size).reshape(-1, size)
            new.write(block[kept[start : start + rows]].tobytes())


def _save(path: Path, array: np.ndarray) -> None:
    try:
        np.save(path, array)
    except OSError as error:
        if error.errno is not None:
            raise
        # numpy says only that it wrote less than it wanted to, which is a full disk.
        raise OSError(errno.ENOSPC, "No space left on device", str(path.parent)) from error


def part_indices(count: int, part: Part | None) -> np.ndarray:
    """Return the ascending indices of a part of `count` images; the split is the same wherever it is made.

    Raises:
        UserError: there are fewer images than the part takes.
    """
    if part is None:
        return np.arange(count)
    if part.first_shuffled is not None:
        if part.first_shuffled > count:
            raise UserError(
                f"'part.first_shuffled' is {part.first_shuffled:,}, but there are only {count:,} images."
            )
        order = torch.randperm(count, generator=stream(0, "part of a data set", count)).numpy()
        return np.sort(order[: part.first_shuffled])
    assert part.one_in
    order = torch.randperm(count, generator=stream(0, "held-out images", count)).numpy()
    held_out = count // part.one_in
    return np.sort(order[:held_out] if part.take == "held-out" else order[held_out:])


def to_signed(images: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Turn uint8 `[B, H, W, C]` into float32 `[B, C, H, W]` in [-1, 1] (EDM: x / 127.5 - 1)."""
    if isinstance(images, np.ndarray):
        # A slice of the memory map is read-only, which torch cannot express.
        images = torch.from_numpy(np.require(images, requirements=["C", "W"]))
    return images.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1


class EpochOrder:
    """The order in which training sees the images: a new permutation every epoch.

    The position in the stream, a count of images, says everything: nothing is kept between calls but the
    latest permutation, as a cache.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        # One assignment, so that a thread reading ahead never sees an epoch with another's permutation.
        self._cached: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def indices(self, position: int, count: int) -> np.ndarray:
        """Return the indices of images `position` to `position + count` of the endless stream."""
        parts = []
        while count > 0:
            epoch, offset = divmod(position, self.count)
            part = self._of_epoch(epoch)[offset : offset + count]
            parts.append(part)
            position += len(part)
            count -= len(part)
        return np.concatenate(parts)

    def _of_epoch(self, epoch: int) -> np.ndarray:
        cached, permutation = self._cached
        if cached != epoch:
            generator = stream(self.seed, "epoch order", epoch)
            permutation = torch.randperm(self.count, generator=generator).numpy()
            self._cached = (epoch, permutation)
        return permutation
