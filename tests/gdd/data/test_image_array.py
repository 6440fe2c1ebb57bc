"""Image arrays: written whole, opened with care, copied to a local disk; and on their way to a network and back."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gdd.config.records import Part
from gdd.data.image_array import (
    FILES,
    ImageArray,
    part_indices,
    quantise,
    staged,
    to_signed,
    write,
    write_blocks,
)
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
    facts = {"images": 5, "height": 4, "width": 3, "channels": 2, "sha256": array.sha256}
    assert array.description == {"name": "set", **facts}
    assert json.loads((folder / "identity.json").read_text()) == facts
    assert ImageArray.open(str(folder / "dataset.json")).sha256 == array.sha256
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "identity.json"])


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
        (lambda folder: (folder / "dataset.json").write_text("[]"), "holds a list instead of a dict"),
        (lambda folder: (folder / "dataset.json").write_text("{}"), "lacks 'name' or 'sha256'"),
        (lambda folder: np.save(folder / "labels.npy", 3), "is not a uint8 array [N, H, W, C] with N"),
        (lambda folder: (folder / "images.npy").unlink(), "cannot be read ("),
        (lambda folder: truncate(folder / "images.npy"), "cannot be read ("),
        (lambda folder: truncate(folder / "labels.npy"), "cannot be read ("),
        (lambda folder: (folder / "labels.npy").write_bytes(b""), "cannot be read ("),
        (lambda folder: np.save(folder / "labels.npy", np.array([{}])), "cannot be read ("),
        (lambda folder: np.save(folder / "labels.npy", LABELS[:4]), "is not a uint8 array [N, H, W, C] with N"),
        (lambda folder: np.save(folder / "images.npy", IMAGES / 255), "is not a uint8 array [N, H, W, C]"),
    ],
)  # fmt: skip
def test_a_damaged_data_set_is_one_sentence(
    folder: Path, damage: Callable[[Path], Any], sentence: str
) -> None:
    damage(folder)
    with pytest.raises(UserError) as caught:
        ImageArray.open(folder)
    assert sentence in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("after", [0, 3])
def test_a_data_set_that_is_being_replaced_is_not_valid(folder: Path, after: int) -> None:
    def blocks() -> Iterator[bytes]:
        yield from (image.tobytes() for image in IMAGES[:after])
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError) as caught:
        write_blocks(folder, blocks(), IMAGES.shape[1:], LABELS, {"name": "set"})
    assert caught.value.filename == str(folder / "images.npy")
    with pytest.raises(UserError, match=r"dataset\.json does not exist"):
        ImageArray.open(folder)
    assert not list(folder.glob(".*"))


# Copied to a local disk


def test_it_is_copied_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = []
    original = shutil.copyfile

    def copyfile(*arguments: Any) -> Any:
        copied.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    results: list[Path] = []
    threads = [
        threading.Thread(target=lambda: results.append(staged(folder, tmp_path / "scratch")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (copy,) = set(results)
    assert len(copied) == 3
    assert copy.parent == tmp_path / "scratch" / f"gdd-{os.getuid()}"
    assert copy.name == f"set-{ImageArray.open(folder).sha256[:16]}"
    for name in FILES:
        assert (copy / name).read_bytes() == (folder / name).read_bytes()
    assert sorted(path.name for path in copy.parent.iterdir()) == [f".{copy.name}.lock", copy.name]
    write(folder, IMAGES[::-1], LABELS, {"name": "set"})
    assert staged(folder, tmp_path / "scratch") != copy
    assert len(copied) == 6


def test_without_scratch_there_is_no_copy(folder: Path) -> None:
    assert staged(folder, None) == folder


def test_what_a_killed_copy_left_is_replaced(folder: Path, tmp_path: Path) -> None:
    copy = staged(folder, tmp_path / "scratch")
    (copy / "labels.npy").unlink()
    (copy.parent / f".{copy.name}.part").mkdir()
    (copy.parent / f".{copy.name}.part" / "images.npy").touch()
    assert staged(folder, tmp_path / "scratch") == copy
    assert np.array_equal(ImageArray.open(copy).images, IMAGES)
    assert not (copy.parent / f".{copy.name}.part").exists()


@pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
def test_a_copy_that_differs_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match="the hashes differ"):
        staged(folder, tmp_path / "scratch")
    assert [path.suffix for path in (tmp_path / "scratch").glob("gdd-*/.*")] == [".lock"]
    assert not list((tmp_path / "scratch").glob("gdd-*/set*"))


@pytest.mark.parametrize("what", ["copyfile", "mkdir"])
def test_a_place_without_room_or_permission_is_no_error(
    what: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path if what == "mkdir" else shutil, what, refuse)
    with caplog.at_level(logging.WARNING):
        assert staged(folder, tmp_path / "scratch") == folder
    assert "is not staged to" in caplog.text
    assert "No space left on device" in caplog.text
    assert not list(tmp_path.glob("scratch/*/.*part"))


def test_a_missing_data_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.json does not exist"):
        staged(tmp_path, tmp_path / "scratch")


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edm_rounding(dtype: torch.dtype) -> None:
    step = 1 / 127.5
    values = [-2.0, -1.0, -0.5 * step, -0.51 * step, 0.0, 0.49 * step, 0.51 * step, 1 - step, 1.0, 1.004, 3.0]
    # -1 gives 0.5, so 0; 1 gives 255.5, clipped to 255 before it is truncated; 0 gives 128.
    expected = [0, 0, 127, 127, 128, 128, 128, 254, 255, 255, 255]
    images = torch.tensor(values, dtype=dtype).reshape(1, 1, 1, -1)
    assert quantise(images).flatten().tolist() == expected


def test_every_byte_survives_the_way_to_the_network_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)
    assert torch.equal(quantise(to_signed(levels)), levels)
    # In bfloat16 itself 127.5 x + 128 would be off by up to a level here.
    half = torch.tensor([0.7109375], dtype=torch.bfloat16).reshape(1, 1, 1, 1)
    assert quantise(half).item() == int(0.7109375 * 127.5 + 128)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_images_are_refused(value: float) -> None:
    images = torch.zeros(4, 1, 2, 2)
    images[2, 0, 1, 1] = value
    with pytest.raises(UserError, match="1 of 4 generated images hold NaN"):
        quantise(images)
