"""From a data set's record and the user's raw data to its image array."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from gdd.config.records import Dataset
from gdd.data.cifar10 import RawImages, read_cifar10
from gdd.data.folder import prepare_folder
from gdd.data.image_array import ImageArray, describe, part_indices, write
from gdd.data.listing import LABEL_FILE
from gdd.errors import UserError


def prepare(
    folder: Path,
    name: str,
    dataset: Dataset,
    raw: Path | None = None,
    *,
    workers: int = 1,
    allow_corrupt: int = 0,
) -> ImageArray:
    """Make the image array of `dataset` in `folder`.

    Args:
        folder: receives images.npy, labels.npy, identity.json and, last, dataset.json.
        name: what the data set is called.
        dataset: what it must turn out to be.
        raw: where its raw data lies; None for the digits, which are part of scikit-learn.
        workers: processes that convert images.
        allow_corrupt: unusable images that may be left out.

    Raises:
        UserError: there is no raw data, or it does not hold what the record promises.
    """
    if dataset.source == "digits":
        if raw is not None:
            raise UserError(f"The data set '{name}' is part of scikit-learn: it takes no raw data ({raw}).")
        images, labels, facts = read_digits()
    else:
        # It may name a folder in an archive: IN.zip/FOLDER.
        if raw is None or not (raw.exists() or any(above.is_file() for above in raw.parents)):
            where = f"at {raw}, which does not exist" if raw else "at a path you give"
            raise UserError(
                f"The raw data of '{name}' is expected {where}: {dataset.raw_in_words()}. "
                f"Set raw_data.{name} in config/local.yaml, or --raw."
            )
        zipped = any(zipfile.is_zipfile(path) for path in [raw, *raw.parents])
        if dataset.source == "folder" or zipped or (raw / LABEL_FILE).is_file():
            return prepare_folder(folder, name, dataset, raw, workers=workers, allow_corrupt=allow_corrupt)
        images, labels, facts = read_cifar10(raw)
    if dataset.source_images not in (None, len(images)):
        raise UserError(f"{facts['source']} holds {len(images):,} images, not {dataset.source_images:,}.")
    chosen = part_indices(len(images), dataset.part)
    images, labels = images[chosen], labels[chosen]
    found = (images.shape, len(facts["classes"]))
    expected = ((dataset.images, dataset.resolution, dataset.resolution, dataset.channels), dataset.classes)
    if found != expected:
        raise UserError(
            f"The data set '{name}' has images {found[0]} of {found[1]} classes, not {expected[0]} of "
            f"{expected[1]}; check its source."
        )
    return write(folder, images, labels, describe(name, dataset, **facts))


def read_digits() -> RawImages:
    """Return scikit-learn's 1,797 digits; their 17 grey levels 0..16 become round(255 v / 16)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    facts = {
        "classes": [str(name) for name in digits.target_names],
        "source": "sklearn.datasets.load_digits (UCI ML hand-written digits, test set)",
    }
    return images, digits.target, facts
