"""CIFAR-10 from the author's archives, small: the same array from each, or a sentence about what is wrong."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from python2_pickle import python2

from gdd.config.records import Dataset, Part
from gdd.data import cifar10
from gdd.data.image_array import part_indices
from gdd.data.prepare import prepare
from gdd.errors import UserError

CLASSES = ["airplane", "automobile", "bird"]
PLANES = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 32, 32), dtype=np.uint8)
LABELS = np.random.default_rng(1).integers(0, 3, (5, 4))
IMAGES = PLANES.reshape(20, 3, 32, 32).transpose(0, 2, 3, 1)

Files = dict[str, bytes]


def batch(number: int, **changes: Any) -> bytes:
    values = {"labels": LABELS[number].tolist(), "data": PLANES[number].reshape(4, -1)} | changes
    return python2({key.encode(): value for key, value in values.items()})


def python_files() -> Files:
    meta = python2({b"num_cases_per_batch": 4, b"label_names": [name.encode() for name in CLASSES]})
    batches = {f"data_batch_{number + 1}": batch(number) for number in range(5)}
    return {"test_batch": batch(0), "batches.meta": meta, **dict(reversed(batches.items()))}


def binary_files() -> Files:
    records = np.concatenate([LABELS[..., None], PLANES.reshape(5, 4, -1)], axis=2).astype(np.uint8)
    batches = {f"data_batch_{number + 1}.bin": records[number].tobytes() for number in range(5)}
    return {"batches.meta.txt": "\n".join([*CLASSES, "\n"]).encode(), **dict(reversed(batches.items()))}


FILES = {"CIFAR-10 for Python": python_files, "CIFAR-10, binary": binary_files}


def archive(path: Path, files: Files) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches/{name}")
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def record(**changes: Any) -> Dataset:
    values = {"title": "CIFAR-10", "source": "cifar10", "resolution": 32, "channels": 3}
    return Dataset(**(values | {"images": 20, "classes": 3} | changes))


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("form", ["tar.gz", "folder"])
def test_five_batches_in_order(kind: str, form: str, tmp_path: Path) -> None:
    raw = archive(tmp_path / "cifar.tar.gz", FILES[kind]())
    if form == "folder":
        shutil.unpack_archive(raw, tmp_path)
        raw = tmp_path / "cifar-10-batches"
    array = prepare(tmp_path / "set", "cifar10", record(), raw)
    assert np.array_equal(array.images, IMAGES)
    assert array.labels.tolist() == LABELS.flatten().tolist()
    assert array.description["classes"] == CLASSES
    assert array.description["source"] == str(raw)
    assert array.description["source_kind"] == kind


def test_a_part(tmp_path: Path) -> None:
    raw = archive(tmp_path / "cifar.tar.gz", binary_files())
    part = record(part=Part(first_shuffled=7), images=7, source_images=20)
    array = prepare(tmp_path / "set", "cifar10-7", part, raw)
    chosen = part_indices(20, part.part)
    assert np.array_equal(array.images, IMAGES[chosen])
    assert array.labels.tolist() == LABELS.flatten()[chosen].tolist()
    assert array.description["part"]["first_shuffled"] == 7


FIRST, TWO = "data_batch_1", np.zeros((2, 3072), np.uint8)
WRONG = {
    "a batch is missing": ("data_batch_3", None, "lacks data_batch_3; it is not the whole of CIFAR-10"),
    "meta is missing": ("batches.meta", None, "lacks batches.meta; "),
    "no names": ("batches.meta", python2({}), "batches.meta in {raw} does not hold the names of the classes."),
    "cut off": (FIRST, batch(1)[:-99], "data_batch_1 in {raw} is damaged, cut off"),
    "no keys": (FIRST, python2({}), "data_batch_1 in {raw} does not hold images of 3 x 32 x 32"),
    "width": (FIRST, batch(1, data=np.zeros((4, 99), np.uint8)), "does not hold images"),
    "fewer labels": (FIRST, batch(1, labels=[0, 1, 2]), "images of 3 x 32 x 32 bytes with a label"),
    "no label": (FIRST, batch(1, labels=[0, 1, 2, None]), "does not give each image one of 3"),
    "fewer images": (FIRST, batch(4, data=TWO, labels=[0, 1]), "has images (18, 32, 32, 3) of 3 classes, not (20, "),
    "binary batch": ("data_batch_1.bin", b"x" * 3000, "data_batch_1.bin in {raw} does not consist of records"),
    "binary label": ("data_batch_1.bin", b"\3" + bytes(3072), "does not give each image one of 3 labels"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case: str, tmp_path: Path) -> None:
    name, content, sentence = WRONG[case]
    files: dict[str, Any] = binary_files() if case.startswith("binary") else python_files()
    files[name] = content
    whole = {key: value for key, value in files.items() if value is not None}
    raw = archive(tmp_path / "cifar.tar.gz", whole)
    with pytest.raises(UserError) as caught:
        prepare(tmp_path / "set", "cifar10", record(), raw)
    assert sentence.format(raw=raw) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "set").exists()


def test_an_archive_of_endless_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("LARGEST", "MOST_MEMBERS"):
        raw = archive(tmp_path / "cifar.tar.gz", python_files())
        with (
            monkeypatch.context() as patch,
            pytest.raises(UserError, match="more or larger files than CIFAR"),
        ):
            patch.setattr(cifar10, limit, 4)
            prepare(tmp_path / "set", "cifar10", record(), raw)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_cut_archive_is_one_sentence(keep: float, tmp_path: Path) -> None:
    raw = archive(tmp_path / "cifar.tar.gz", python_files())
    os.truncate(raw, int(keep if keep >= 1 else keep * raw.stat().st_size))
    with pytest.raises(UserError, match=r"is not a whole archive|lacks data_batch|lacks batches"):
        prepare(tmp_path / "set", "cifar10", record(), raw)
