"""CIFAR-10 (Krizhevsky 2009) from the archive its author publishes for Python."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from gdd.config.records import Dataset
from gdd.data.image_array import ImageArray, part_indices, write
from gdd.errors import UserError
from gdd.networks.foreign import read_foreign

BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))  # the training images, in EDM's order
META = "batches.meta"
SIZE = 32
LARGEST = 1 << 26  # bytes; a batch has 31 MB


def prepare_cifar10(folder: Path, name: str, dataset: Dataset, raw: Path) -> ImageArray:
    """Write the five training batches, in order, as an image array.

    Args:
        folder: receives the array.
        name: what the data set is called.
        dataset: what it must turn out to be.
        raw: cifar-10-python.tar.gz, or the folder it unpacks to. Its pickles are read without running them.

    Raises:
        UserError: a batch is missing, damaged, or not what it should be; the sentence names it.
    """
    contents = _from_folder(raw) if raw.is_dir() else _from_archive(raw)
    missing = [part for part in (*BATCHES, META) if part not in contents]
    if missing:
        raise UserError(f"{raw} lacks {', '.join(missing)}; it is not the whole of CIFAR-10 for Python.")
    classes = _class_names(contents[META], f"{META} in {raw}")
    if len(classes) != dataset.classes:
        raise UserError(f"{raw} has {len(classes)} classes, not {dataset.classes}.")
    batches = [_batch(contents.pop(part), len(classes), f"{part} in {raw}") for part in BATCHES]
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    total = dataset.source_images or dataset.images
    if len(images) != total:
        counts = ", ".join(f"{part} {len(batch[1]):,}" for part, batch in zip(BATCHES, batches, strict=True))
        raise UserError(f"{raw} holds {len(images):,} images, not {total:,}: {counts}.")
    chosen = part_indices(total, dataset.part)
    description: dict[str, Any] = {
        "name": name,
        "title": dataset.title,
        "classes": classes,
        "source": str(raw),
        "source_kind": "CIFAR-10 for Python",
        "licence": dataset.licence,
    }
    if dataset.part:
        description["part"] = dataset.part.model_dump(mode="json")
    return write(folder, images[chosen], labels[chosen], description)


def _from_folder(raw: Path) -> dict[str, bytes]:
    return {part: (raw / part).read_bytes() for part in (*BATCHES, META) if (raw / part).is_file()}


def _from_archive(raw: Path) -> dict[str, bytes]:
    contents = {}
    try:
        with tarfile.open(raw, "r:*") as archive:
            for member in archive:
                part = PurePosixPath(member.name).name
                if part in (*BATCHES, META) and member.isreg():
                    if member.size > LARGEST:
                        raise UserError(f"{part} in {raw} is larger than it can be: {member.size:,} bytes.")
                    if file := archive.extractfile(member):
                        contents[part] = file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{raw} is not a whole archive ({error}); fetch it again.") from None
    return contents


def _batch(content: bytes, classes: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch's images `[n, 32, 32, 3]` and labels `[n]`."""
    facts, arrays = read_foreign(content, "batch", called=where)
    try:
        images = arrays["data"].numpy().reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)
        labels = np.array(facts["labels"])
    except (KeyError, ValueError):
        raise UserError(
            f"{where} does not hold images of 3 x {SIZE} x {SIZE} bytes and their labels."
        ) from None
    if (
        labels.shape != (len(images),)
        or labels.dtype != np.int64
        or not np.isin(labels, range(classes)).all()
    ):
        raise UserError(f"{where} does not give each of its {len(images):,} images one of {classes} labels.")
    return images, labels


def _class_names(content: bytes, where: str) -> list[str]:
    names = read_foreign(content, "batch", called=where)[0].get("label_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where} does not hold the names of the classes.")
    return names
