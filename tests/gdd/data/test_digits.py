"""The data set that comes with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from gdd.config.load import parse_record
from gdd.config.records import Dataset
from gdd.data.image_array import ImageArray
from gdd.data.prepare import prepare
from gdd.errors import UserError

RECORD = Path(__file__).resolve().parents[3] / "config" / "datasets" / "digits.yaml"


@pytest.fixture(scope="module")
def record() -> Dataset:
    return parse_record(Dataset, str(RECORD))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, record: Dataset) -> ImageArray:
    return prepare(tmp_path_factory.mktemp("digits"), "digits", record)


def test_images(digits: ImageArray) -> None:
    original = load_digits().images
    assert digits.images.shape == (1797, 8, 8, 1)
    assert digits.images.dtype == np.uint8
    levels = np.unique(digits.images)
    assert levels.tolist() == [round(255 * level / 16) for level in range(17)]
    # The levels lead back to the scans without loss.
    assert np.array_equal(np.searchsorted(levels, digits.images[..., 0]), original)


def test_labels(digits: ImageArray) -> None:
    assert np.array_equal(digits.labels, load_digits().target)
    assert sorted(set(digits.labels.tolist())) == list(range(10))


def test_description(digits: ImageArray, record: Dataset) -> None:
    assert digits.name == "digits"
    assert digits.description["classes"] == [str(digit) for digit in range(10)]
    assert digits.description["licence"] == record.licence
    assert digits.description["title"] == record.title
    assert "part" not in digits.description
    assert (
        digits.sha256 == "0b7e9c3202d7bcd255d6a19a238d3743bf5e320ba74812a6679958a017c55382"
    )  # metrics and references name it


def test_parts(tmp_path: Path, digits: ImageArray, record: Dataset) -> None:
    parts = []
    for take, count in (("held-out", 359), ("rest", 1438)):
        text = record.model_copy(update={"part": None, "images": count}).model_dump_json()
        part = parse_record(Dataset, text.replace('"part":null', f'"part":{{"one_in":5,"take":"{take}"}}'))
        parts.append(prepare(tmp_path / take, take, part))
        assert parts[-1].description["part"] == {"one_in": 5, "take": take}
    assert sorted(np.concatenate([part.images for part in parts]).tobytes()) == sorted(
        digits.images.tobytes()
    )
    counts = sum(np.bincount(part.labels, minlength=10) for part in parts)
    assert np.array_equal(counts, np.bincount(digits.labels))
    assert len({digits.sha256, parts[0].sha256, parts[1].sha256}) == 3


@pytest.mark.parametrize(
    ("change", "promised"),
    [({"images": 1796}, "not 1796 of (1, 8, 8)"), ({"channels": 3}, "not 1797 of (3, 8, 8)")],
)
def test_a_record_that_promises_something_else(
    tmp_path: Path, record: Dataset, change: dict[str, int], promised: str
) -> None:
    with pytest.raises(UserError) as caught:
        prepare(tmp_path, "mine", record.model_copy(update=change))
    sentence = str(caught.value)
    assert sentence.startswith("The data set 'mine' came out as 1797 images of shape (1, 8, 8), ")
    assert promised in sentence
    assert not (tmp_path / "dataset.json").exists()  # it must not pass for a data set
