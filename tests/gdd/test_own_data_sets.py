"""A data set of a user's own, from its files to a table: grey images, and labels of a single class."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny_project import RECORDS, RUN, write_config

from gdd.cli import cli
from gdd.data.image_array import ImageArray
from gdd.errors import UserError

pytestmark = pytest.mark.slow

COUNT = 48
STAGES = (
    "check",
    "dataset mine",
    "features random",
    "teacher tiny",
    "distill tiny gdd --seed 3",
    "reference mine random",
    "evaluate run tiny gdd --seed 3",
    "table small",
    "figure samples small",
    "page small",
)


def write_project(folder: Path, classes: int) -> np.ndarray:
    """Write a configuration and a folder of grey images, and return them, [N, 8, 8]."""
    write_config(folder, images=32, snapshot_every=16)
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8), dtype=np.uint8)
    place = folder / "raw" / ("only" if classes else "")
    place.mkdir(parents=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(place / f"{index:02d}.png")
    edit(folder, "settings/tiny", dataset="mine")
    edit(folder, "features/random", dataset="mine")
    architecture = RECORDS["teachers/tiny"]["architecture"] | {"img_channels": 3, "label_dim": classes}
    for name in ("tiny", "longer"):
        edit(folder, f"teachers/{name}", dataset="mine", architecture=architecture)
    mine: dict[str, Any] = {"title": "Mine", "source": "folder", "resolution": 8, "channels": 3}
    write_record(folder, "datasets/mine", mine | {"images": COUNT, "classes": classes})
    write_record(folder, "local", {"raw_data": {"mine": str(folder / "raw")}})
    return images


def edit(folder: Path, name: str, **changes: Any) -> None:
    path = folder / f"config/{name}.yaml"
    write_record(folder, name, yaml.safe_load(path.read_text()) | changes)


def write_record(folder: Path, name: str, record: dict[str, Any]) -> None:
    (folder / f"config/{name}.yaml").write_text(yaml.safe_dump(record))


@pytest.mark.parametrize("classes", [0, 1])
def test_grey_images_without_labels_and_of_one_class(tmp_path: Path, classes: int) -> None:
    images = write_project(tmp_path, classes)
    with contextlib.chdir(tmp_path), patch.dict(os.environ):
        for words in STAGES:
            cli(words.split(), standalone_mode=False)
        data = ImageArray.open("results/datasets/mine")
    assert np.array_equal(data.images, np.repeat(images[..., None], 3, axis=3))
    assert data.description["classes"] == ["only"] * classes
    metrics = json.loads((tmp_path / RUN / "metrics.json").read_text())
    assert metrics["final"]["mean"]["fid"] > 0
    assert (tmp_path / "results/figures/small-samples.png").exists()


def test_a_classifier_of_one_class_is_refused(tmp_path: Path) -> None:
    write_project(tmp_path, 1)
    edit(tmp_path, "features/random", steps=10)
    with (
        contextlib.chdir(tmp_path),
        pytest.raises(UserError, match="is trained on two classes or more, 'mine' has 1"),
    ):
        cli(["check"], standalone_mode=False)
