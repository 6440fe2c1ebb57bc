"""From images in a folder or an archive to an array: whole, in order, or a list of what is wrong."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photographs import Files, bytes_of, images_in, record
from PIL import Image

from gdd.config.records import Part
from gdd.data import conversion
from gdd.data.image_array import ImageArray, part_indices, write
from gdd.data.prepare import prepare
from gdd.errors import UserError

pytestmark = pytest.mark.usefixtures("small_chunks")

Source = Callable[[str, Path, Files], Path]
OUTPUTS = ["dataset.json", "identity.json", "images.npy", "labels.npy"]


def pixels(source: Path, files: Files) -> np.ndarray:
    """What the array must be, made without any of the code under test."""
    rows = []
    for name in images_in(files):
        with Image.open(source / name) as image:
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            square = image.crop((left, top, left + side, top + side))
            rows.append(np.asarray(square.resize((8, 8), Image.Resampling.LANCZOS)))
    return np.stack(rows)


def digest(array: ImageArray) -> str:
    return hashlib.sha256(array.images.tobytes() + array.labels.tobytes()).hexdigest()


def test_every_source_gives_the_same_array(
    kind: str, photos: Files, make_source: Source, source: Path, tmp_path: Path
) -> None:
    raw = make_source(kind, tmp_path / "other", photos)
    array = prepare(tmp_path / "set", "photos", record(), raw)
    assert np.array_equal(array.images, pixels(source, photos))
    assert array.labels.tolist() == ["abc".index(name[0]) for name in images_in(photos)]
    assert isinstance(array.images, np.memmap)
    assert sorted(bytes_of(tmp_path / "set")) == OUTPUTS
    assert array.description == {
        "name": "photos",
        "title": "Photos",
        "classes": ["a", "b", "c"],
        "source": str(raw),
        "source_kind": next(word for word in ("zip", "tar", "folder") if word in kind),
        "transform": "center-crop",
        "licence": "none",
        "images": 19,
        "height": 8,
        "width": 8,
        "channels": 3,
        "sha256": digest(array),
    }


def test_names_that_are_no_utf8(source: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"a/\xff.png")
    shutil.copy(next((source / "c").iterdir()), source / name)
    assert prepare(tmp_path / "set", "photos", record(images=20), source).images.shape[0] == 20
    (source / name).write_bytes(b"no image")
    with pytest.raises(UserError) as caught:
        prepare(tmp_path / "other", "photos", record(images=20), source)
    assert r"a/\udcff.png is not an image that Pillow can read" in str(caught.value)


@pytest.mark.slow  # processes
def test_neither_workers_nor_chunks_change_a_byte(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = prepare(tmp_path / "one", "photos", record(), source)
    monkeypatch.setattr(conversion, "CHUNK", 3)
    prepare(tmp_path / "two", "photos", record(), source, workers=2)
    write(tmp_path / "at once", np.array(array.images), array.labels, array.description)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two") == bytes_of(tmp_path / "at once")


@pytest.mark.parametrize("labels", [None, [7, 0, 3, 3, 9, 1, 2, 2, 8, 5, 4]])
@pytest.mark.parametrize("changes", [{}, {"transform": "resize"}, {"source": "cifar10"}])
def test_edm_archives(
    edm_zip: Callable[..., Path], labels: list[int] | None, changes: dict[str, Any], tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 3), dtype=np.uint8)
    archive = edm_zip(tmp_path / "edm.zip", images, labels)
    wanted = record(images=11, classes=10 if labels else 0, **{"transform": None, **changes})
    array = prepare(tmp_path / "set", "edm", wanted, archive)
    assert np.array_equal(array.images, images)
    assert array.labels.tolist() == (labels or [0] * 11)
    assert array.description["source_kind"] == "EDM archive"
    assert array.description["classes"] == [str(number) for number in range(10 if labels else 0)]


@pytest.mark.parametrize(
    "part", [Part(first_shuffled=7), Part(one_in=5, take="rest"), Part(one_in=5, take="held-out")]
)
def test_parts(part: Part, source: Path, photos: Files, tmp_path: Path) -> None:
    chosen = part_indices(19, part)
    wanted = record(part=part, images=len(chosen), source_images=19)
    array = prepare(tmp_path / "set", "part", wanted, source)
    assert np.array_equal(array.images, pixels(source, photos)[chosen])
    assert array.description["part"] == part.model_dump(mode="json")
    with pytest.raises(UserError, match=rf"would be {len(chosen)} images, not 8"):
        prepare(tmp_path / "set", "part", wanted.model_copy(update={"images": 8}), source)


@pytest.mark.parametrize("expected", [18, 20])
def test_wrong_counts_say_what_there_is(expected: int, source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        prepare(tmp_path / "set", "photos", record(images=expected), source)
    said = f"holds 19 images, not {expected}; of its 3 folders the smallest are a with 6, c with 6, b with 7."
    assert said in str(caught.value)
    assert not (tmp_path / "set").exists()


def test_files_that_only_the_label_file_names(edm_zip: Callable[..., Path], tmp_path: Path) -> None:
    archive = edm_zip(tmp_path / "edm.zip", np.zeros((5, 8, 8, 3), np.uint8), [0] * 5)
    shutil.unpack_archive(archive, tmp_path / "edm")
    (tmp_path / "edm" / "00001" / "img00000003.png").unlink()
    with pytest.raises(UserError, match=r"not 5; missing are 1 file: 00001/img00000003\.png"):
        prepare(tmp_path / "set", "edm", record(images=5, classes=1), tmp_path / "edm")


# Damaged images


def damage(source: Path, names: list[str]) -> None:
    for name in names:
        os.truncate(source / name, (source / name).stat().st_size // 2)


def test_damaged_files_are_named_and_read_again_once_mended(
    source: Path, photos: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare(tmp_path / "whole", "photos", record(), source)
    names = images_in(photos)
    damage(source, [names[2], names[9]])
    (source / names[3]).write_bytes(b"")
    with pytest.raises(UserError) as caught:
        prepare(tmp_path / "set", "photos", record(), source)
    sentence = str(caught.value)
    assert sentence.startswith(f"{source} holds 3 unusable images: {names[2]} is damaged (")
    assert f"; {names[3]} is empty; {names[9]} is damaged (" in sentence
    assert sentence.endswith("or skip them with --allow-corrupt 3.")
    assert not (tmp_path / "set" / "dataset.json").exists()
    for name in (names[2], names[3], names[9]):
        (source / name).write_bytes(photos[name])
    with caplog.at_level(logging.INFO):
        prepare(tmp_path / "set", "photos", record(), source)
    assert "Going on after 11 of 19 images." in caplog.text  # two of five chunks had to be made again
    assert bytes_of(tmp_path / "set") == bytes_of(tmp_path / "whole")


def test_some_damaged_files_can_be_left_out(source: Path, photos: Files, tmp_path: Path) -> None:
    whole, names = pixels(source, photos), images_in(photos)
    gone = [4, 16, 17, 18]  # the last chunk is left with nothing
    damage(source, [names[index] for index in gone])
    with pytest.raises(UserError, match="holds 4 unusable images, of which 3 may be skipped"):
        prepare(tmp_path / "set", "photos", record(), source, allow_corrupt=3)
    array = prepare(tmp_path / "set", "photos", record(), source, allow_corrupt=4)
    kept = [index for index in range(19) if index not in gone]
    assert np.array_equal(array.images, whole[kept])
    assert array.labels.tolist() == ["abc".index(names[index][0]) for index in kept]
    assert list(array.description["skipped"]) == [names[index] for index in gone]
    assert array.description["skipped"][names[4]].startswith("is damaged (")
    assert array.description["images"] == 15
    assert array.sha256 == digest(array)
    assert sorted(bytes_of(tmp_path / "set")) == OUTPUTS


def test_many_damaged_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for number in range(32):
        (tmp_path / "raw" / f"{number:02d}.png").touch()
    with pytest.raises(UserError) as caught:
        prepare(tmp_path / "set", "rubbish", record(images=32, classes=0), tmp_path / "raw")
    assert "holds 32 unusable images: 00.png is empty; 01.png is empty" in str(caught.value)
    assert "19.png is empty; and 12 more." in str(caught.value)
