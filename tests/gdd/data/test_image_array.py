"""Image arrays: written whole, opened with care, and seen by training in an order that has no history."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gdd.config.records import Part
from gdd.data.image_array import EpochOrder, ImageArray, part_indices, to_signed, write
from gdd.data.quantise import quantise
from gdd.errors import UserError

quick = settings(max_examples=60, deadline=None)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 2), dtype=np.uint8)
LABELS = np.arange(5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "set", IMAGES, LABELS, {"name": "set"})
    return tmp_path / "set"


# On disk


def test_what_is_written_is_read(folder: Path) -> None:
    array = ImageArray.open(folder)
    assert isinstance(array.images, np.memmap)  # opening it does not read it
    assert not array.images.flags.writeable
    assert np.array_equal(array.images, IMAGES)
    assert array.labels.tolist() == LABELS.tolist()
    assert array.labels.dtype == np.int64
    assert (len(array), array.shape, array.name) == (5, (2, 4, 3), "set")
    facts = {key: array.description[key] for key in ("images", "height", "width", "channels")}
    assert facts == {"images": 5, "height": 4, "width": 3, "channels": 2}
    assert sorted(path.name for path in folder.iterdir()) == [
        "dataset.json",
        "identity.json",
        "images.npy",
        "labels.npy",
    ]


def test_a_data_set_is_named_by_its_folder_or_its_description(folder: Path) -> None:
    assert ImageArray.open(folder / "dataset.json").sha256 == ImageArray.open(str(folder)).sha256


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    def digest(images: np.ndarray, labels: np.ndarray, **description: Any) -> str:
        return write(tmp_path / "set", images, labels, {"name": "set", **description}).sha256

    expected = hashlib.sha256(IMAGES.tobytes() + LABELS.astype("<i8").tobytes()).hexdigest()
    assert digest(IMAGES, LABELS) == expected
    assert digest(np.asfortranarray(IMAGES), LABELS.astype(np.int32), title="T") == expected
    assert digest(IMAGES[::-1], LABELS) != expected
    assert digest(IMAGES, LABELS[::-1]) != expected


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "dataset.json").unlink(), "dataset.json does not exist."),
        (lambda folder: (folder / "dataset.json").write_text("{"), "is not valid JSON ("),
        (lambda folder: (folder / "images.npy").unlink(), "cannot be read ("),
        (lambda folder: (folder / "labels.npy").unlink(), "cannot be read ("),
        (lambda folder: truncate(folder / "images.npy"), "cannot be read ("),
        (lambda folder: truncate(folder / "labels.npy"), "cannot be read ("),
        (lambda folder: (folder / "labels.npy").write_bytes(b""), "cannot be read ("),
        (lambda folder: np.save(folder / "labels.npy", np.array([{}])), "cannot be read ("),
        (
            lambda folder: np.save(folder / "labels.npy", LABELS[:4]),
            "is not a uint8 array [N, H, W, C] with N labels",
        ),
        (lambda folder: np.save(folder / "images.npy", IMAGES / 255), "is not a uint8 array [N, H, W, C]"),
        (lambda folder: np.save(folder / "images.npy", IMAGES[..., 0]), "is not a uint8 array [N, H, W, C]"),
    ],
)
def test_a_damaged_data_set_is_one_sentence(
    folder: Path, damage: Callable[[Path], Any], sentence: str
) -> None:
    damage(folder)
    with pytest.raises(UserError) as caught:
        ImageArray.open(folder)
    assert sentence in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_data_set_is_valid_only_once_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("gdd.data.image_array.write_json", full)
    with pytest.raises(OSError):
        write(tmp_path / "set", IMAGES, LABELS, {"name": "set"})
    with pytest.raises(UserError, match=r"dataset\.json does not exist"):
        ImageArray.open(tmp_path / "set")


def test_a_data_set_that_is_being_replaced_is_not_valid(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("2560000 requested and 1048448 written")  # numpy's words for a full disk

    monkeypatch.setattr("gdd.data.image_array.np.save", full)
    with pytest.raises(OSError) as caught:
        write(folder, IMAGES, LABELS, {"name": "set"})
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(UserError, match=r"dataset\.json does not exist"):
        ImageArray.open(folder)


def test_the_description_is_readable(folder: Path) -> None:
    assert json.loads((folder / "dataset.json").read_text())["name"] == "set"


# Parts


@quick
@given(count=st.integers(2, 500), one_in=st.integers(2, 10))
def test_two_parts_are_the_whole(count: int, one_in: int) -> None:
    held_out = part_indices(count, Part(one_in=one_in, take="held-out"))
    rest = part_indices(count, Part(one_in=one_in, take="rest"))
    assert sorted([*held_out, *rest]) == list(range(count))
    assert len(held_out) == count // one_in
    assert held_out.tolist() == sorted(held_out)
    assert rest.tolist() == sorted(rest)
    assert part_indices(count, None).tolist() == list(range(count))


def test_a_split_is_random_and_fixed() -> None:
    held_out = part_indices(1000, Part(one_in=5, take="held-out"))
    assert np.array_equal(held_out, part_indices(1000, Part(one_in=5, take="held-out")))
    assert 400 < held_out.mean() < 600
    assert not np.array_equal(held_out, np.arange(200))


# To the network


def test_signed_images() -> None:
    signed = to_signed(IMAGES)
    assert signed.shape == (5, 2, 4, 3)
    assert signed.dtype == torch.float32
    assert signed[1, 0, 2, 1] == torch.tensor(IMAGES[1, 2, 1, 0] / 127.5 - 1, dtype=torch.float32)
    assert torch.equal(to_signed(torch.as_tensor(IMAGES)), signed)
    assert to_signed(np.array([[[[0], [255]]]], dtype=np.uint8)).flatten().tolist() == [-1, 1]
    assert torch.equal(quantise(signed), torch.as_tensor(IMAGES))


# The order of an epoch


@quick
@given(
    count=st.integers(1, 40),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 50),
    splits=st.lists(st.integers(1, 90)),
)
def test_an_epoch_shows_every_image_once_whatever_the_batches(
    count: int, seed: int, epoch: int, splits: list[int]
) -> None:
    order = EpochOrder(count, seed)
    position, end, seen = epoch * count, (epoch + 1) * count, []
    for size in [*splits, count]:
        size = min(size, end - position)
        if size:
            seen += order.indices(position, size).tolist()
            position += size
    assert sorted(seen) == list(range(count))
    assert seen == EpochOrder(count, seed).indices(epoch * count, count).tolist()


@quick
@given(count=st.integers(1, 30), position=st.integers(0, 200), size=st.integers(1, 100))
def test_a_batch_depends_on_nothing_but_its_position(count: int, position: int, size: int) -> None:
    whole = EpochOrder(count, 3).indices(0, position + size)
    assert EpochOrder(count, 3).indices(position, size).tolist() == whole[position:].tolist()
    used = EpochOrder(count, 3)
    used.indices(position + 7 * count, 1)
    assert used.indices(position, size).tolist() == whole[position:].tolist()


def test_epochs_and_seeds_differ() -> None:
    order = EpochOrder(100, 0)
    epochs = [tuple(order.indices(epoch * 100, 100)) for epoch in range(3)]
    assert len(set(epochs)) == 3
    assert tuple(EpochOrder(100, 1).indices(0, 100)) not in epochs
