"""From images in a folder or an archive to an array: whole, in order, restartable, or a list of what is wrong."""

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
from PIL import Image

from gdd.config.records import Dataset, Part
from gdd.data import conversion
from gdd.data.conversion import Chunk, Converted
from gdd.data.image_array import ImageArray, part_indices, write
from gdd.data.prepare import prepare
from gdd.data.unfinished import Unfinished
from gdd.errors import UserError

pytestmark = pytest.mark.slow  # pools of processes

Files = dict[str, bytes]
Source = Callable[[str, Path, Files], Path]


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


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "CHUNK", 4)


@pytest.fixture
def source(photos: Files, make_source: Source, tmp_path: Path) -> Path:
    return make_source("folder", tmp_path / "source", photos)


def images_in(files: Files) -> list[str]:
    return sorted(name for name in files if "mage" in name and "._" not in name and "__" not in name)


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


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_source_gives_the_same_array(
    kind: str, photos: Files, make_source: Source, source: Path, tmp_path: Path
) -> None:
    array = prepare(tmp_path / "set", "photos", record(), make_source(kind, tmp_path / "other", photos))
    assert np.array_equal(array.images, pixels(source, photos))
    assert array.labels.tolist() == ["abc".index(name[0]) for name in images_in(photos)]
    assert isinstance(array.images, np.memmap)
    assert sorted(bytes_of(tmp_path / "set")) == ["dataset.json", "identity.json", "images.npy", "labels.npy"]
    assert array.description == {
        "name": "photos",
        "title": "Photos",
        "classes": ["a", "b", "c"],
        "source": str(tmp_path / "other" / ("raw" if kind == "folder" else array.description["source"])),
        "source_kind": next(word for word in ("zip", "tar", "folder") if word in kind),
        "transform": "center-crop",
        "licence": "none",
        "images": 19,
        "height": 8,
        "width": 8,
        "channels": 3,
        "sha256": hashlib.sha256(array.images.tobytes() + array.labels.tobytes()).hexdigest(),
    }


def test_the_files_are_those_of_an_array_written_at_once(source: Path, photos: Files, tmp_path: Path) -> None:
    array = prepare(tmp_path / "set", "photos", record(), source)
    write(tmp_path / "at once", np.array(array.images), array.labels, array.description)
    assert bytes_of(tmp_path / "set") == bytes_of(tmp_path / "at once")


def test_neither_workers_nor_chunks_change_a_byte(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path / "one", "photos", record(), source)
    monkeypatch.setattr(conversion, "CHUNK", 3)
    prepare(tmp_path / "two", "photos", record(), source, workers=2)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


@pytest.mark.parametrize("labels", [None, "given"])
def test_edm_archives(edm_zip: Callable[..., Path], labels: str | None, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 3), dtype=np.uint8)
    numbers = [7, 0, 3, 3, 9, 1, 2, 2, 8, 5, 4]
    archive = edm_zip(tmp_path / "edm.zip", images, numbers if labels else None)
    for given in ({"source": "folder"}, {"source": "folder", "transform": "resize"}, {"source": "cifar10"}):
        wanted = record(images=11, classes=10 if labels else 0, **{"transform": None, **given})
        array = prepare(tmp_path / "set", "edm", wanted, archive)
        assert np.array_equal(array.images, images)
        assert array.labels.tolist() == (numbers if labels else [0] * 11)
        assert array.description["source_kind"] == "EDM archive"
        assert array.description["classes"] == [str(number) for number in range(10 if labels else 0)]


def test_parts(source: Path, photos: Files, tmp_path: Path) -> None:
    whole = pixels(source, photos)
    for number, part in enumerate(
        [Part(first_shuffled=7), Part(one_in=5, take="rest"), Part(one_in=5, take="held-out")]
    ):
        chosen = part_indices(19, part)
        wanted = record(part=part, images=len(chosen), source_images=19)
        array = prepare(tmp_path / str(number), "part", wanted, source)
        assert np.array_equal(array.images, whole[chosen])
        assert array.description["part"] == part.model_dump(mode="json")
    too_many = record(part=Part(first_shuffled=20), images=20, source_images=19)
    with pytest.raises(UserError, match="is 20, but there are only 19 images"):
        prepare(tmp_path / "set", "part", too_many, source)
    with pytest.raises(UserError, match="would be 7 images, not 8"):
        prepare(
            tmp_path / "set", "part", record(part=Part(first_shuffled=7), images=8, source_images=19), source
        )


# Counts


def test_wrong_counts_say_what_there_is(source: Path, tmp_path: Path) -> None:
    for expected in (18, 20):
        with pytest.raises(UserError) as caught:
            prepare(tmp_path / "set", "photos", record(images=expected), source)
        assert f"holds 19 images, not {expected}; its folders: a with 6, b with 7, c with 6." in str(
            caught.value
        )
    assert not (tmp_path / "set").exists()


def test_missing_files_are_named_where_names_tell(edm_zip: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "ffhq"
    for number in range(30):
        if number not in (0, 17):
            path = folder / f"{number // 10 * 10:05d}" / f"{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    with pytest.raises(
        UserError, match=r"holds 28 images, not 30; missing are 2 files: 00000.png, 00017.png\."
    ):
        prepare(tmp_path / "set", "ffhq", record(images=30, classes=0), folder)
    shutil.unpack_archive(
        edm_zip(tmp_path / "edm.zip", np.zeros((5, 8, 8, 3), np.uint8), [0] * 5), tmp_path / "e"
    )
    (tmp_path / "e" / "00001" / "img00000003.png").unlink()
    with pytest.raises(UserError, match=r"not 5; missing are 1 file: 00001/img00000003\.png"):
        prepare(tmp_path / "set", "edm", record(images=5, classes=1), tmp_path / "e")


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
    assert "Going on after 12 of 19 images." in caplog.text  # two of five chunks had to be made again
    assert bytes_of(tmp_path / "set") == bytes_of(tmp_path / "whole")


def test_some_damaged_files_can_be_left_out(source: Path, photos: Files, tmp_path: Path) -> None:
    whole = pixels(source, photos)
    names = images_in(photos)
    damage(source, [names[18], names[4]])
    with pytest.raises(UserError, match="holds 2 unusable images, of which 1 may be skipped"):
        prepare(tmp_path / "set", "photos", record(), source, allow_corrupt=1)
    array = prepare(tmp_path / "set", "photos", record(), source, allow_corrupt=2)
    kept = [index for index in range(19) if index not in (4, 18)]
    assert np.array_equal(array.images, whole[kept])
    assert array.labels.tolist() == ["abc".index(names[index][0]) for index in kept]
    assert list(array.description["skipped"]) == [names[4], names[18]]
    assert array.description["skipped"][names[4]].startswith("is damaged (")
    assert array.description["images"] == 17
    assert array.sha256 == hashlib.sha256(array.images.tobytes() + array.labels.tobytes()).hexdigest()
    assert sorted(bytes_of(tmp_path / "set")) == ["dataset.json", "identity.json", "images.npy", "labels.npy"]


def test_a_source_of_rubbish_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "GIVE_UP", 30)
    (tmp_path / "raw").mkdir()
    for number in range(60):
        (tmp_path / "raw" / f"{number:02d}.png").touch()
    with pytest.raises(UserError) as caught:
        prepare(tmp_path / "set", "rubbish", record(images=60, classes=0), tmp_path / "raw")
    assert "holds at least 32 unusable images: 00.png is empty; 01.png is empty" in str(caught.value)
    assert "19.png is empty; and 12 more." in str(caught.value)


# Stopped in the middle


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [0, 1, 3, 4])
def test_a_preparation_that_was_killed_goes_on(
    after: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path / "whole", "photos", record(), source)
    seen: list[int] = []
    original = conversion.convert_chunk

    def convert_chunk(chunk: Chunk) -> Converted:
        if len(seen) == after:
            raise Killed
        seen.append(chunk.index)
        return original(chunk)

    monkeypatch.setattr(conversion, "convert_chunk", convert_chunk)
    with pytest.raises(Killed):
        prepare(tmp_path / "set", "photos", record(), source)
    assert sorted(bytes_of(tmp_path / "set")) == ["images.npy.journal", "images.npy.part"]
    after = -1
    with pytest.raises(UserError):
        ImageArray.open(tmp_path / "set")
    prepare(tmp_path / "set", "photos", record(), source)
    assert seen == [0, 1, 2, 3, 4]  # each chunk once, in two goes
    assert bytes_of(tmp_path / "set") == bytes_of(tmp_path / "whole")


def half_done(folder: Path, source: Path, wanted: Dataset) -> None:
    """Leave what a preparation leaves that was killed after two chunks."""
    original = conversion.convert_chunk

    def convert_chunk(chunk: Chunk) -> Converted:
        if chunk.index == 2:
            raise Killed
        return original(chunk)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(conversion, "convert_chunk", convert_chunk)
        prepare(folder, "photos", wanted, source)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ("nothing", 8),
        ("torn journal", 8),
        ("rubbish in the journal", 8),
        ("lost rows", 4),
        ("resolution", 0),
        ("transform", 0),
        ("other files", 0),
        ("short array", 0),
        ("no journal", 0),
        ("rubbish", 0),
        ("empty journal", 0),
    ],
)
def test_what_was_left_is_taken_up_only_if_it_fits(
    change: str, kept: int, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, wanted = tmp_path / "set", record()
    left = {"resolution": record(resolution=4), "transform": record(transform="resize")}.get(change, wanted)
    half_done(folder, source, left)
    part, journal = folder / "images.npy.part", folder / "images.npy.journal"
    if change == "torn journal":
        journal.write_text(journal.read_text() + "3 17")
    elif change == "other files":
        old = min((source / "a").glob("[Ii]mage*"))
        old.rename(old.with_stem("Imagine"))
    elif change == "short array":
        os.truncate(part, part.stat().st_size - 1)
    elif change == "rubbish in the journal":
        journal.write_bytes(journal.read_bytes() + b"\0\xff 7\n\n3\n")
    elif change == "lost rows":
        with part.open("r+b") as file:
            file.seek(128 + 5 * 192)
            file.write(bytes(192))
    elif change == "no journal":
        journal.unlink()
    elif change == "rubbish":
        part.write_bytes(b"rubbish")
    elif change == "empty journal":
        journal.write_text("")
    prepare(tmp_path / "whole", "photos", wanted, source)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        prepare(folder, "photos", wanted, source)
    assert (f"Going on after {kept} of 19 images." in caplog.text) == bool(kept)
    assert caplog.text.count("Going on") == bool(kept)
    assert bytes_of(folder) == bytes_of(tmp_path / "whole")


def test_only_one_process_at_a_time(source: Path, tmp_path: Path) -> None:
    with (
        Unfinished(tmp_path / "set", (19, 8, 8, 3), 4, "x"),
        pytest.raises(UserError, match="by another process"),
    ):
        prepare(tmp_path / "set", "photos", record(), source)
    assert len(prepare(tmp_path / "set", "photos", record(), source)) == 19


def test_a_disk_without_room(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=3000))
    with pytest.raises(UserError, match=r"has 0\.0 GB free, but the images take 0\.0 GB; make room"):
        prepare(tmp_path / "set", "photos", record(), source)


def test_a_worker_that_dies_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "convert_chunk", os._exit)
    chunks: Any = iter([9])
    with pytest.raises(UserError, match="was killed, perhaps for want of memory; the same command goes on"):
        list(conversion._converted(chunks, 2))


# Where the raw data is


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
    digits = record(source="digits", transform=None, channels=1, classes=10, images=1797)
    with pytest.raises(UserError, match="'digits' is part of scikit-learn: it takes no raw data"):
        prepare(tmp_path / "set", "digits", digits, tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"channels": 1}, "'channels' has to be 3"),
        ({"source": "cifar10"}, "the source 'cifar10' knows no 'transform'"),
        ({"source_images": 30}, "'source_images' belongs to a 'part'"),
        ({"part": Part(first_shuffled=3)}, "a 'part' needs 'source_images'"),
    ],
)
def test_records_that_contradict_themselves(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        record(**changes)


@pytest.mark.parametrize(
    "keys", [{}, {"one_in": 3}, {"take": "rest"}, {"first_shuffled": 3, "one_in": 3, "take": "rest"}]
)
def test_a_part_is_one_kind(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a part is either 'one_in' with 'take', or 'first_shuffled'"):
        Part(**keys)


def test_a_record_says_only_what_it_uses() -> None:
    assert "source_images" not in record().canonical()
    assert '"part": null' in record().canonical()
    assert '"part": {"first_shuffled": 3}' in record(part=Part(first_shuffled=3), source_images=9).canonical()
    digits = record(source="digits", transform=None)
    assert "transform" not in digits.canonical()
    assert Dataset.model_validate_json(digits.canonical()) == digits
