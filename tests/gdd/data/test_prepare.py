"""What a record promises: the digits, where raw data has to lie, and records that contradict themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from gdd.config.record import parse, read_yaml
from gdd.config.records import Dataset
from gdd.data.image_array import ImageArray
from gdd.data.prepare import prepare
from gdd.errors import UserError

CONFIG = Path(__file__).resolve().parents[3] / "config" / "datasets"
FOLDER = {"title": "Photos", "source": "folder", "transform": "resize", "resolution": 8, "channels": 3}


def record(**changes: Any) -> Dataset:
    return Dataset(**(FOLDER | {"images": 19, "classes": 3} | changes))


def dataset(path: Path) -> Dataset:
    return parse(Dataset, read_yaml(path), path)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> ImageArray:
    wanted = dataset(CONFIG / "digits.yaml")
    return prepare(tmp_path_factory.mktemp("digits"), "digits", wanted)


def test_digits(digits: ImageArray) -> None:
    levels = np.unique(digits.images)
    assert levels.tolist() == [round(255 * level / 16) for level in range(17)]
    # The levels lead back to the scans without loss.
    assert np.array_equal(np.searchsorted(levels, digits.images[..., 0]), load_digits().images)
    assert np.array_equal(digits.labels, load_digits().target)
    assert digits.description["classes"] == [str(digit) for digit in range(10)]
    # Metrics and references name it.
    assert digits.sha256 == "0b7e9c3202d7bcd255d6a19a238d3743bf5e320ba74812a6679958a017c55382"


def test_two_parts_of_the_digits_are_the_whole(tmp_path: Path, digits: ImageArray) -> None:
    parts = []
    for name in ("heldout", "train"):
        wanted = dataset(CONFIG / f"digits-{name}.yaml")
        parts.append(prepare(tmp_path / name, name, wanted))
        assert parts[-1].description["part"] == wanted.part.model_dump(mode="json")  # type: ignore[union-attr]
    rows = [image.tobytes() for part in parts for image in part.images]
    assert sorted(rows) == sorted(image.tobytes() for image in digits.images)
    counts = sum(np.bincount(part.labels, minlength=10) for part in parts)
    assert np.array_equal(counts, np.bincount(digits.labels))


@pytest.mark.parametrize("change", [{"images": 1796}, {"channels": 3}, {"resolution": 16}, {"classes": 9}])
def test_a_record_that_promises_something_else(tmp_path: Path, change: dict[str, int]) -> None:
    wanted = dataset(CONFIG / "digits.yaml").model_copy(update=change)
    with pytest.raises(UserError, match=r"'mine' has images \(1797, 8, 8, 1\) of 10 classes, not"):
        prepare(tmp_path / "set", "mine", wanted)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("raw", [None, "nowhere"])
def test_missing_raw_data_is_one_sentence(raw: str | None, tmp_path: Path) -> None:
    path = raw and tmp_path / raw
    with pytest.raises(UserError) as caught:
        prepare(tmp_path / "set", "imagenet", record(images=1281167, classes=1000), path or None)
    where = f"at {path}, which does not exist" if path else "at a path you give"
    assert str(caught.value) == (
        f"The raw data of 'imagenet' is expected {where}: a folder, .zip or .tar of its 1,281,167 images in "
        "1,000 sub-folders, one for each class, or EDM's ZIP. "
        "Set raw_data.imagenet in config/local.yaml, or --raw."
    )


def test_digits_take_no_raw_data(tmp_path: Path) -> None:
    wanted = record(source="digits", transform=None, channels=1, classes=10, images=1797)
    with pytest.raises(UserError, match="'digits' is part of scikit-learn: it takes no raw data"):
        prepare(tmp_path / "set", "digits", wanted, tmp_path)
