"""An image array copied to a disk of the machine that trains on it."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from pathlib import Path

import numpy as np

from gdd.data.image_array import ImageArray
from gdd.errors import UserError
from gdd.files import locked

FILES = ("images.npy", "labels.npy", "dataset.json")

log = logging.getLogger("gdd")


def stage(folder: str | Path, scratch: str | Path | None) -> Path:
    """Copy the image array in `folder` below `scratch`, once for all processes there, and return the copy.

    A copy is named by the content's hash, and checked against it before it gets its name. Without a
    `scratch`, or where the copy has no room or no permission there, it is `folder` that comes back.

    Raises:
        UserError: what was copied is not what dataset.json says.
    """
    folder = Path(folder)
    if scratch is None:
        return folder
    array = ImageArray.open(folder)
    # Per user: another one's files could not be trusted nor replaced.
    shelf = Path(scratch) / f"gdd-{os.getuid()}"
    copy = shelf / f"{array.name}-{array.sha256[:16]}"
    try:
        shelf.mkdir(parents=True, exist_ok=True)
        with locked(shelf / f".{copy.name}.lock"):
            # What cleans up scratch disks may have taken one of the files.
            if not all((copy / name).is_file() for name in FILES):
                _copy(folder, copy, array)
    except OSError as error:
        log.warning("%s is not staged to %s (%s): it is read where it lies.", folder, scratch, error.strerror)
        return folder
    return copy


def _copy(folder: Path, copy: Path, array: ImageArray) -> None:
    temporary = copy.with_name(f".{copy.name}.part")
    for leftover in (temporary, copy):  # nobody else can be at it: the lock is held
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        temporary.mkdir()
        for name in FILES:
            shutil.copyfile(folder / name, temporary / name)
        if _content_hash(temporary) != array.sha256:
            raise UserError(
                f"The data set in {folder} is not what its dataset.json says, or its copy in "
                f"{copy.parent} is damaged: the hashes differ; check the disks, and prepare it again."
            )
        temporary.replace(copy)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    log.info("%s is staged to %s.", folder, copy)


def _content_hash(folder: Path) -> str:
    """Return the hash of images and labels as `dataset.json` gives it, in constant memory."""
    array = ImageArray.open(folder)
    assert isinstance(array.images, np.memmap)
    with (folder / "images.npy").open("rb") as file:
        file.seek(array.images.offset)
        digest = hashlib.file_digest(file, "sha256")
    digest.update(array.labels.astype("<i8").tobytes())
    return digest.hexdigest()
