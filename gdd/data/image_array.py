"""A data set on disk: one memory-mapped uint8 array of images, its labels, and what it is."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdd.config.records import Dataset, Part
from gdd.errors import DivergedError, UserError, in_a_line
from gdd.files import BROKEN_ARRAYS, atomic_path, locked, read_json, write_json
from gdd.randomness import stream

FILES = ("images.npy", "labels.npy", "dataset.json")

log = logging.getLogger("gdd")


@dataclass(frozen=True)
class ImageArray:
    """Images `[N, H, W, C]` uint8 (memory-mapped), labels `[N]` int64, and the description beside them."""

    images: np.ndarray
    labels: np.ndarray
    description: dict[str, Any]

    @property
    def name(self) -> str:
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

    def content_hash(self) -> str:
        """Return what `sha256` has to be."""
        digest = hashlib.sha256(self.images.data)
        digest.update(self.labels.astype("<i8").data)
        return digest.hexdigest()

    @classmethod
    def open(cls, folder: str | Path) -> ImageArray:
        """Open a data set by its folder or a JSON file in it, without reading the images.

        Raises:
            UserError: a file is missing, or the parts do not fit together.
        """
        folder = Path(folder)
        if folder.suffix == ".json":
            folder = folder.parent
        if not folder.is_dir():
            raise UserError(
                f"The data set {folder} does not exist; make it with `gdd dataset {folder.name}`."
            )
        description = read_json(folder / "dataset.json", dict)
        if not all(isinstance(description.get(key), str) for key in ("name", "sha256")):
            raise UserError(f"{folder}/dataset.json lacks 'name' or 'sha256'; prepare the data set again.")
        try:
            images = np.load(folder / "images.npy", mmap_mode="r")
            labels = np.load(folder / "labels.npy")
        except BROKEN_ARRAYS as error:
            problem = in_a_line(error)
            raise UserError(
                f"The data set in {folder} cannot be read ({problem}); prepare it again."
            ) from None
        whole = images.dtype == np.uint8 and images.ndim == 4 and labels.shape == (len(images),)
        if not whole or labels.dtype.kind not in "iu":
            raise UserError(
                f"The data set in {folder} is not a uint8 array [N, H, W, C] with N labels; prepare it again."
            )
        return cls(images, labels, description)


def write(folder: Path, images: np.ndarray, labels: np.ndarray, description: dict[str, Any]) -> ImageArray:
    """Write a data set of images `[N, H, W, C]` uint8 in memory; see `write_blocks`."""
    return write_blocks(folder, [images.tobytes()], images.shape[1:], labels, description)


def write_blocks(
    folder: Path,
    blocks: Iterable[bytes],
    shape: tuple[int, ...],
    labels: np.ndarray,
    description: dict[str, Any],
) -> ImageArray:
    """Write a data set whose images need not fit into memory; dataset.json, which makes it valid, comes last.

    Args:
        folder: receives images.npy, labels.npy, identity.json and dataset.json.
        blocks: the bytes of the images, in order.
        shape: one image's (H, W, C).
        labels: integers `[N]`.
        description: what dataset.json says besides size and hash.
    """
    (folder / "dataset.json").unlink(missing_ok=True)
    digest = hashlib.sha256()
    for name, dtype, array_shape, content in (
        ("images", "|u1", (len(labels), *shape), blocks),
        ("labels", "<i8", labels.shape, [labels.astype("<i8").tobytes()]),
    ):
        with atomic_path(folder / f"{name}.npy") as temporary, temporary.open("wb") as file:
            header = {"descr": dtype, "fortran_order": False, "shape": array_shape}
            np.lib.format.write_array_header_1_0(file, header)
            for block in content:
                digest.update(block)
                file.write(block)
    facts = dict(zip(("images", "height", "width", "channels"), (len(labels), *shape), strict=True))
    identity = {**facts, "sha256": digest.hexdigest()}
    # What a workflow watches: it says nothing of titles and places, so it is equal whenever the data are.
    write_json(folder / "identity.json", identity)
    write_json(folder / "dataset.json", {**description, **identity})
    return ImageArray.open(folder)


def staged(folder: Path, scratch: Path | None) -> Path:
    """Copy the data set in `folder` below `scratch`, once for all processes there, and return the copy.

    A copy is named by the content's hash, and checked against it before it gets its name. Without a
    `scratch`, or where it has no room or no permission, it is `folder` that comes back.

    Raises:
        UserError: what was copied is not what dataset.json says.
    """
    if scratch is None:
        return folder
    array = ImageArray.open(folder)
    # Per user: another one's files could not be trusted nor replaced.
    copy = scratch / f"gdd-{os.getuid()}" / f"{array.name}-{array.sha256[:16]}"
    try:
        with locked(copy.with_name(f".{copy.name}.lock")):
            # What cleans up scratch disks may have taken one of the files.
            if not all((copy / name).is_file() for name in FILES):
                _copy(folder, copy, array.sha256)
    except OSError as error:
        log.warning("%s is not staged to %s (%s): it is read where it lies.", folder, scratch, error.strerror)
        return folder
    return copy


def _copy(folder: Path, copy: Path, sha256: str) -> None:
    part = copy.with_name(f".{copy.name}.part")
    for leftover in (part, copy):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        part.mkdir()
        for name in FILES:
            shutil.copyfile(folder / name, part / name)
        if ImageArray.open(part).content_hash() != sha256:
            raise UserError(
                f"The data set in {folder} is not what its dataset.json says, or its copy in "
                f"{copy.parent} is damaged: the hashes differ; check the disks, and prepare it again."
            )
        part.replace(copy)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    log.info("%s is staged to %s.", folder, copy)


def describe(name: str, dataset: Dataset, **facts: Any) -> dict[str, Any]:
    """Return what dataset.json says of a data set, besides the size and hash of its content."""
    description = {"name": name, "title": dataset.title, **facts, "licence": dataset.licence}
    if dataset.part:
        description["part"] = dataset.part.model_dump(mode="json")
    return description


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


def to_signed(images: np.ndarray | Tensor) -> Tensor:
    """Turn uint8 `[B, H, W, C]` into float32 `[B, C, H, W]` in [-1, 1] (EDM: x / 127.5 - 1)."""
    if isinstance(images, np.ndarray):
        # A slice of the memory map is read-only, which torch cannot express.
        images = torch.from_numpy(np.require(images, requirements=["C", "W"]))
    return images.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1


def quantise(images: Tensor) -> Tensor:
    """Turn images `[B, C, H, W]` in [-1, 1] into uint8 `[B, H, W, C]`.

    clip(127.5 x + 128, 0, 255), truncated, is EDM's rounding (arXiv:2206.00364, published code). The also
    common (x + 1) 127.5 is half a grey level darker, which shifts the Frechet distance.

    Raises:
        DivergedError: an image holds NaN or infinity.
    """
    if not torch.isfinite(images).all():
        broken = int((~torch.isfinite(images)).flatten(1).any(dim=1).sum())
        raise DivergedError(
            f"{broken} of {len(images)} generated images hold NaN or infinity: "
            "the network has diverged; go back to an earlier snapshot or lower the learning rate."
        )
    # Half precision cannot represent 127.5 x + 128 to the grey level.
    wide = images if images.dtype == torch.float64 else images.to(torch.float32)
    return (wide * 127.5 + 128).clip(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
