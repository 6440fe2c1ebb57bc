"""CIFAR-10's archive: its own pickles, small, and pickles that are up to no good."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from python2_pickle import python2

from gdd.config.records import Dataset, Part
from gdd.data.image_array import part_indices
from gdd.data.prepare import prepare
from gdd.errors import UserError
from gdd.networks.foreign import read_foreign
from gdd.networks.inert import DAMAGED
from gdd.networks.unpickle import answer

CLASSES = ["airplane", "automobile", "bird"]
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 32, 32), dtype=np.uint8)
LABELS = np.random.default_rng(1).integers(0, 3, (5, 4))
FOLDER = "cifar-10-batches-py"


def batch(number: int) -> dict[bytes, Any]:
    return {
        b"batch_label": b"training batch %d of 5" % (number + 1),
        b"labels": LABELS[number].tolist(),
        b"data": IMAGES[number].reshape(4, -1),
        b"filenames": [b"s_%d.png" % index for index in range(4)],
    }


@pytest.fixture
def files() -> dict[str, bytes]:
    meta = {b"num_cases_per_batch": 4, b"label_names": [name.encode() for name in CLASSES], b"num_vis": 3072}
    batches = {f"data_batch_{number + 1}": python2(batch(number)) for number in range(5)}
    test = python2({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0]})
    return {"test_batch": test, "batches.meta": python2(meta), **dict(reversed(batches.items()))}


def archive(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(f"{FOLDER}/{name}")
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def record(**changes: Any) -> Dataset:
    values = {"title": "CIFAR-10", "source": "cifar10", "resolution": 32, "channels": 3}
    return Dataset(**(values | {"images": 20, "classes": 3} | changes))


@pytest.mark.parametrize("form", ["tar.gz", "tar", "folder"])
def test_five_batches_in_order(form: str, files: dict[str, bytes], tmp_path: Path) -> None:
    raw = archive(tmp_path / f"cifar.{form}", files, "w:gz" if form == "tar.gz" else "w")
    if form == "folder":
        shutil.unpack_archive(raw, tmp_path, "tar")
        raw = tmp_path / FOLDER
    array = prepare(tmp_path / "set", "cifar10", record(), raw)
    assert np.array_equal(array.images, IMAGES.reshape(20, 3, 32, 32).transpose(0, 2, 3, 1))
    assert array.labels.tolist() == LABELS.flatten().tolist()
    assert array.description["classes"] == CLASSES
    assert array.description["source"] == str(raw)
    assert array.description["source_kind"] == "CIFAR-10 for Python"


def test_a_part(files: dict[str, bytes], tmp_path: Path) -> None:
    raw = archive(tmp_path / "cifar.tar.gz", files)
    part = record(part=Part(first_shuffled=7), images=7, source_images=20)
    array = prepare(tmp_path / "set", "cifar10-7", part, raw)
    chosen = part_indices(20, part.part)
    assert np.array_equal(array.images, IMAGES.reshape(20, 3, 32, 32).transpose(0, 2, 3, 1)[chosen])
    assert array.labels.tolist() == LABELS.flatten()[chosen].tolist()
    assert array.description["part"] == {"first_shuffled": 7}


def changed(number: int, **changes: Any) -> bytes:
    return python2({**batch(number), **{key.encode(): value for key, value in changes.items()}})


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("data_batch_3", None, "lacks data_batch_3; it is not the whole of CIFAR-10"),
        ("batches.meta", None, "lacks batches.meta; "),
        ("batches.meta", python2({}), "batches.meta in {raw} does not hold the names of the classes."),
        ("batches.meta", python2({b"label_names": [b"one"]}), "{raw} has 1 classes, not 3."),
        ("data_batch_2", python2(batch(1))[:-99], "data_batch_2 in {raw} is damaged, cut off"),
        ("data_batch_2", b"", "data_batch_2 in {raw} is damaged, cut off"),
        ("data_batch_2", python2({}), "data_batch_2 in {raw} does not hold images of 3 x 32 x 32"),
        ("data_batch_2", changed(1, data=3), "data_batch_2 in {raw} does not hold images"),
        ("data_batch_2", changed(1, data=np.zeros((4, 99), np.uint8)), "does not hold images"),
        ("data_batch_2", changed(1, data=np.zeros((4, 3072), np.int8)), "that is not of bytes in row order"),
        (
            "data_batch_2",
            changed(1, data=np.zeros((4, 3072), np.uint8, order="F")),
            "that is not of bytes in row order",
        ),
        ("data_batch_2", changed(1, labels=[0, 1, 2]), "does not give each of its 4 images one of 3 labels"),
        ("data_batch_2", changed(1, labels=[0, 1, 2, 3]), "does not give each of its 4 images"),
        ("data_batch_2", changed(1, labels=[0, 1, 2, None]), "does not give each of its 4 images"),
        (
            "data_batch_5",
            changed(4, data=np.zeros((2, 3072), np.uint8), labels=[0, 1]),
            "{raw} holds 18 images, not 20: data_batch_1 4, data_batch_2 4, data_batch_3 4, data_batch_4 4, "
            "data_batch_5 2.",
        ),
    ],
)
def test_what_is_wrong_is_named(
    name: str, content: bytes | None, sentence: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    if content is None:
        del files[name]
    else:
        files[name] = content
    raw = archive(tmp_path / "cifar.tar.gz", files)
    with pytest.raises(UserError) as caught:
        prepare(tmp_path / "set", "cifar10", record(), raw)
    assert sentence.format(raw=raw) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("keep", [0, 10, 500, 0.5, 0.99])
def test_a_cut_archive_is_one_sentence(keep: float, files: dict[str, bytes], tmp_path: Path) -> None:
    raw = archive(tmp_path / "cifar.tar.gz", files)
    os.truncate(raw, int(keep if keep >= 1 else keep * raw.stat().st_size))
    with pytest.raises(UserError, match=r"is not a whole archive|lacks data_batch|lacks batches"):
        prepare(tmp_path / "set", "cifar10", record(), raw)


def test_a_batch_of_the_wrong_size_is_not_read(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gdd.data.cifar10.LARGEST", 10_000)
    with pytest.raises(UserError, match=r"data_batch_5 in .* is larger than it can be: 1"):
        prepare(tmp_path / "set", "cifar10", record(), archive(tmp_path / "cifar.tar.gz", files))


def test_the_record_decides_the_number_of_images(files: dict[str, bytes], tmp_path: Path) -> None:
    raw = archive(tmp_path / "cifar.tar.gz", files)
    with pytest.raises(UserError, match="holds 20 images, not 50,000: data_batch_1 4"):
        prepare(tmp_path / "set", "cifar10", record(images=50_000), raw)
    with pytest.raises(UserError, match=r"not 20 of \(3, 64, 64\)"):
        prepare(tmp_path / "set", "cifar10", record(resolution=64), raw)
    assert not (tmp_path / "set" / "dataset.json").exists()


# The pickles


@pytest.mark.parametrize("core", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_plain_content(core: str) -> None:
    value = {b"a": [1, 2**30, -5, [True, None, 1.5]], b"b": IMAGES[0, 0]}
    facts, arrays = read_foreign(python2(value, core), "batch", called="a batch")
    assert facts == {"a": value[b"a"]}
    assert np.array_equal(arrays["b"].numpy(), IMAGES[0, 0])


@pytest.mark.parametrize("protocol", range(5))
def test_later_protocols(protocol: int, files: dict[str, bytes], tmp_path: Path) -> None:
    names = {"label_names": CLASSES}
    content = {"labels": LABELS[0].tolist(), "data": IMAGES[0].reshape(4, -1)}
    files["batches.meta"] = pickle.dumps(names, protocol)
    if protocol > 2:  # before, Python 3 writes bytes as Python 2 never did
        files["data_batch_1"] = pickle.dumps(content, protocol)
    array = prepare(tmp_path / "set", "cifar10", record(), archive(tmp_path / "cifar.tar.gz", files))
    assert np.array_equal(array.images, IMAGES.reshape(20, 3, 32, 32).transpose(0, 2, 3, 1))


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


HOSTILE: dict[str, tuple[bytes, str]] = {
    "system": (
        pickle.dumps(Calls(os.system, "touch canary"), 2),
        "asks for posix.system, which no such file",
    ),
    "system in a batch": (
        python2({**batch(0), b"filenames": Calls(os.system, "touch canary")}),
        "asks for posix.system",
    ),
    "eval": (pickle.dumps(Calls(eval, "open('canary', 'w')"), 4), "asks for builtins.eval"),
    "text protocol": (pickle.dumps(Calls(os.system, "touch canary"), 0), "asks for posix.system"),
    "codecs": (pickle.dumps(b"bytes", 2), "asks for _codecs.encode"),
    "numpy's loader": (b"\x80\x02cnumpy\nload\nX\x06\0\0\0canary\x85R.", "asks for numpy.load"),
    "another name of numpy": (
        b"\x80\x02cnumpy.core.multiarray\nscalar\n.",
        "asks for numpy.core.multiarray.scalar",
    ),
    "dotted name": (b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.", "asks for numpy.ndarray.__init__"),
    "old instance": (b"(i__main__\nCanary\n.", "asks for __main__.Canary"),
    "a tensor": (pickle.dumps({"data": torch.zeros(1)}), "asks for torch._utils._rebuild_tensor_v2"),
    "persistent name": (b"Pcanary\n.", DAMAGED),
    "state of the maker": (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}X\x01\0\0\0xK\x01sb.", DAMAGED),
    "array as a function": (b"\x80\x02cnumpy\nndarray\n)R.", DAMAGED),
    "array without a state": (b"\x80\x02}X\x01\0\0\0acnumpy\ndtype\n)Rs.", DAMAGED),
    "dtype of objects": (python2({b"a": np.array([[None]], dtype=object)}), "is not of bytes in row order"),
    "array too short": (
        python2({b"a": IMAGES[0, 0]}).replace(b"K\x03K\x20K\x20", b"K\x04K\x20K\x20"),
        "reaches beyond its numbers",
    ),
    "memo": (b"\x80\x02}r\xff\xff\xff\xff.", "takes more time or memory"),
    "huge text": (b"\x80\x02T\xff\xff\xff\x7f.", "takes more time or memory"),
    "names with an escape sequence": (python2({b"label_names": [b"\x1b[2J"]}), "special characters"),
    "not a dict": (python2([1]), DAMAGED),
    "no stop": (b"\x80\x02}", DAMAGED),
    "later protocol": (b"\x80\x09N.", DAMAGED),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, sentence = HOSTILE[name]
    with pytest.raises(UserError, match=r"^a batch [^\n]*\.$") as caught:
        read_foreign(content, "batch", called="a batch")
    assert sentence in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_hostile_batch_is_one_sentence(files: dict[str, bytes], tmp_path: Path) -> None:
    files["data_batch_4"] = HOSTILE["system"][0]
    raw = archive(tmp_path / "cifar.tar.gz", files)
    with pytest.raises(UserError) as caught:
        prepare(tmp_path / "set", "cifar10", record(), raw)
    assert str(caught.value) == (
        f"data_batch_4 in {raw} asks for posix.system, which no such file needs (nothing of it was run); "
        "get the file from those who published it."
    )


def test_nothing_but_prefixes(files: dict[str, bytes]) -> None:
    content = files["batches.meta"]
    for end in range(len(content)):
        assert DAMAGED.encode() in answer(io.BytesIO(content[:end]), "batch", "")[0]
    assert b"airplane" in answer(io.BytesIO(content), "batch", "")[0]
