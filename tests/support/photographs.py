"""A data set of nineteen photographs: its record, and what a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gdd.config.records import Dataset

Files = dict[str, bytes]


def record(**changes: Any) -> Dataset:
    values = {
        "title": "Photos",
        "source": "folder",
        "transform": "center-crop",
        "resolution": 8,
        "channels": 3,
        "images": 19,
        "classes": 3,
        "licence": "none",
    }
    return Dataset(**(values | changes))


def images_in(files: Files) -> list[str]:
    return sorted(name for name in files if "mage" in name and "._" not in name and "__" not in name)


def bytes_of(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
