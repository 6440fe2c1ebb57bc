"""scikit-learn's handwritten digits: 1,797 real 8x8 scans that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gdd.config.records import Dataset
from gdd.data.image_array import ImageArray, part_indices, write


def prepare_digits(folder: Path, name: str, dataset: Dataset) -> ImageArray:
    """Write the digits as an image array; their 17 grey levels 0..16 become round(255 v / 16)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    chosen = part_indices(len(digits.images), dataset.part)
    images = np.rint(digits.images[chosen] * (255 / 16)).astype(np.uint8)[..., None]
    description: dict[str, Any] = {
        "name": name,
        "title": dataset.title,
        "classes": [str(name) for name in digits.target_names],
        "source": "sklearn.datasets.load_digits (UCI ML hand-written digits, test set)",
        "licence": dataset.licence,
    }
    if dataset.part:
        description["part"] = dataset.part.model_dump(mode="json")
    return write(folder, images, digits.target[chosen], description)
