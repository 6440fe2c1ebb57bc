"""Labels from folders and from EDM's dataset.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gdd.data.labels import labels_of, named, unlisted
from gdd.data.listing import Listing
from gdd.data.reading import MEMBER
from gdd.errors import UserError

NAMES = ["n1/a.png", "n1/b.png", "n10/a.png", "n2/deep/er.png"]


def listing(names: list[str] = NAMES, labels: Any = ...) -> Listing:
    label_file = None if labels is ... else json.dumps(labels).encode()
    return Listing("zip", Path("set.zip"), "", names, np.zeros(len(names), MEMBER), label_file)


def test_top_folders_are_classes() -> None:
    labels, classes = labels_of(listing(), 3)
    assert classes == ["n1", "n10", "n2"]
    assert labels.tolist() == [0, 0, 1, 2]
    assert labels.dtype == np.int64


def test_without_classes_there_are_no_labels() -> None:
    labels, classes = labels_of(listing(labels={"labels": None}), 0)
    assert (labels.tolist(), classes) == ([0, 0, 0, 0], [])


def test_edm_labels() -> None:
    pairs = [[name, label] for name, label in zip(NAMES, [2, 0, 1, 2], strict=True)]
    labels, classes = labels_of(listing(labels={"labels": [["other.png", 1], *pairs[::-1]]}), 3)
    assert labels.tolist() == [2, 0, 1, 2]
    assert labels.dtype == np.int64
    assert classes == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("names", "classes", "sentence"),
    [
        (NAMES, 2, "holds 3 folders of images, not one for each of 2 classes"),
        ([*NAMES, "x.png"], 3, "3 folders of images and 1 images outside of them, not one for each of 3"),
        (["x.png", "y.png"], 2, "holds 0 folders of images and 2 images outside"),
        ([f"train/{name}" for name in NAMES], 3, "give the folder that lies right above these"),
    ],
)
def test_other_folders_than_classes(names: list[str], classes: int, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        labels_of(listing(sorted(names)), classes)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (
            {"labels": [[name, 3] for name in NAMES]},
            "gives labels from 3 to 3, 1 different ones, but the data set has 3",
        ),
        ({"labels": [[name, -1] for name in NAMES]}, "gives labels from -1 to -1"),
        ({"labels": [[name, 0] for name in NAMES]}, "gives labels from 0 to 0, 1 different ones"),
        ({"labels": [[name, 2**70] for name in NAMES]}, "1 different ones, but the data set has 3"),
        ({"labels": [[name, 0] for name in NAMES[1:]]}, "gives no label for 1 file: n1/a.png."),
        ({"labels": None}, "gives no label for 4 files: n1/a.png, "),
        ({"labels": [[name, [0.5, 1]] for name in NAMES]}, "is not of the form"),
        ({"labels": [[name, True] for name in NAMES]}, "is not of the form"),
        ({"labels": [[name, 1.0] for name in NAMES]}, "is not of the form"),
        ({"labels": [["a", 1, 2]]}, "is not of the form"),
        ({"labels": 3}, "is not of the form"),
        ({}, "is not of the form"),
        ([], "is not of the form"),
    ],
)
def test_wrong_label_files(labels: Any, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        labels_of(listing(labels=labels), 3)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("dataset.json in set.zip ")


def test_files_that_only_the_label_file_knows() -> None:
    labels = {"labels": [["n1/a.png", 0], ["n3/z.png", 0], ["n3/a.png", 0]]}
    assert unlisted(listing(labels=labels)) == ["n3/a.png", "n3/z.png"]
    assert unlisted(listing()) == []


def test_long_lists_are_counted() -> None:
    assert named(["a"]) == "1 file: a"
    assert named([str(number) for number in range(20)]).endswith(", 18, 19")
    assert named([str(number) for number in range(1500)]).endswith(", 18, 19 and 1,480 more")
