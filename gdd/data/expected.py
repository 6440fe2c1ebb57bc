"""What raw data a data set is made from, in words and in places."""

from __future__ import annotations

from pathlib import Path

from gdd.config.records import Dataset


def what_is_expected(dataset: Dataset) -> str:
    """Return in words what raw data a data set is made from."""
    if dataset.source == "cifar10":
        return "cifar-10-python.tar.gz, cifar-10-binary.tar.gz, the folder one unpacks to, or EDM's ZIP"
    classes = f" in {dataset.classes:,} sub-folders, one for each class" if dataset.classes else ""
    images = f"{dataset.source_images or dataset.images:,} images{classes}"
    return f"a folder, .zip or .tar of its {images}, or EDM's ZIP"


def archives_above(raw: Path) -> list[Path]:
    """Return the archive in which `raw` may name a folder (`images.zip/train`)."""
    return [path for path in raw.parents if path.is_file()]
