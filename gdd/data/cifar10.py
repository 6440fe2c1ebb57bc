"""CIFAR-10 (Krizhevsky 2009) from the archive its author publishes for Python."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from gdd.config.records import Dataset
from gdd.data.cifar_pickle import RefusedPickle, UInt8Array, load_batch
from gdd.data.image_array import ImageArray, part_indices, write
from gdd.errors import UserError

BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))  # the training images, in EDM's order
META = "batches.meta"
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
    batches = [_batch(contents[part], f"{part} in {raw}") for part in BATCHES]
    classes = _class_names(contents[META], f"{META} in {raw}")
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    if len(classes) != dataset.classes and dataset.classes:
        raise UserError(f"{raw} has {len(classes)} classes, not {dataset.classes}.")
    if dataset.part and len(images) != dataset.source_images:
        counts = ", ".join(f"{part} {len(labels):,}" for part, (_, labels) in zip(BATCHES, batches, strict=True))
        raise UserError(f"{raw} holds {len(images):,} images, not {dataset.source_images:,}: {counts}.")
    chosen = part_indices(len(images), dataset.part)
    description: dict[str, Any] = {
        "name": name,
        "title": dataset.title,
        "classes": classes if dataset.classes else [],
        "source": str(raw),
        "source_kind": "CIFAR-10 for Python",
        "licence": dataset.licence,
    }
    if dataset.part:
        description["part"] = dataset.part.model_dump(mode="json")
    chosen_labels = labels[chosen] if dataset.classes else np.zeros(len(chosen), np.int64)
    return write(folder, images[chosen], chosen_labels, description)
