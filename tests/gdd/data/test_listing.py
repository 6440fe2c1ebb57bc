"""Sources: the same images, bytes and labels in the same order from a folder and from every archive."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gdd.data import listing as module
from gdd.data.folder import labels_of
from gdd.data.listing import Entry, Listing, Unusable, list_images, reader
from gdd.errors import UserError

Files = dict[str, bytes]
Source = Callable[[str, Path, Files], Path]


def contents(listing: Listing) -> list[tuple[str, bytes]]:
    with reader(listing.path) as read:
        return [(entry.name, read(entry)) for entry in listing]


def test_every_source_lists_the_same(kind: str, photos: Files, make_source: Source, tmp_path: Path) -> None:
    listing = list_images(make_source(kind, tmp_path / "0", photos))
    hidden = ("__", "._", "readme")
    images = {name: content for name, content in photos.items() if not any(word in name for word in hidden)}
    assert len(images) == 19
    assert contents(listing) == sorted(images.items())
    assert contents(listing.only(np.array([3, 1]))) == [sorted(images.items())[index] for index in (3, 1)]
    assert listing.label_file is None

    def fingerprint(number: int, files: Files) -> str:
        return list_images(make_source(kind, tmp_path / str(number), files)).fingerprint()

    assert fingerprint(1, photos) == listing.fingerprint()
    assert fingerprint(2, dict(list(photos.items())[1:])) != listing.fingerprint()
    assert fingerprint(3, {**photos, "a/another.png": b""}) != listing.fingerprint()
    if kind != "tar of tars":  # there is no such thing of EDM's
        listing = list_images(make_source(kind, tmp_path / "4", {**photos, "dataset.json": b"{}"}))
        assert (listing.label_file, len(listing)) == (b"{}", 19)
        assert listing.only(np.arange(3)).label_file is None  # of ImageNet it has 50 MB


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_names_sort_as_whole_paths(kind: str, make_source: Source, tmp_path: Path) -> None:
    # '-' and '.' come before '/', and '_' and letters after it.
    names = ["B/x.png", "a-b/x.png", "a.png", "a/x.png", "a_b/x.png", "aa.png"]
    assert list_images(make_source(kind, tmp_path, dict.fromkeys(names[::-1], b""))).names == names


def test_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.png").write_bytes(b"x")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "folder").symlink_to(tmp_path / "real")
    (tmp_path / "raw" / "file.png").symlink_to(tmp_path / "real" / "x.png")
    (tmp_path / "raw" / "lost.png").symlink_to(tmp_path / "nowhere")
    listing = list_images(tmp_path / "raw")
    assert listing.names == ["file.png", "folder/x.png", "lost.png"]
    with reader(listing.path) as read, pytest.raises(Unusable, match=r"cannot be read \(No such file"):
        read(Entry("lost.png"))


def test_of_two_files_of_one_name_the_last_counts(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "raw.tar", "w") as archive:
        for content in (b"old", b"newer"):
            info = tarfile.TarInfo("x.png")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert contents(list_images(tmp_path / "raw.tar")) == [("x.png", b"newer")]


@pytest.mark.parametrize(
    "content", [b"PK\3\4 and nothing", b"x" * 600, b"", b"\x1f\x8b\x08 compressed", None]
)
def test_what_is_no_archive_is_one_sentence(content: bytes | None, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    if content is not None:
        raw.write_bytes(content)
    with pytest.raises(UserError) as caught:
        list_images(raw)
    assert ("is neither a whole .zip nor a whole" if content is not None else "not exist") in str(
        caught.value
    )
    assert str(raw) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_cut_archive(kind: str, photos: Files, make_source: Source, tmp_path: Path) -> None:
    source = make_source(kind, tmp_path, photos)
    os.truncate(source, source.stat().st_size * 2 // 3)
    with pytest.raises(UserError, match=f"{source} is neither a whole"):
        list_images(source)


# What is wrong with single members of an archive


def flip(content: bytearray, entry: Entry) -> None:
    content[entry.offset + 60] ^= 8


def move(content: bytearray, entry: Entry) -> None:
    content[content.index(b"PK\1\2") + 42] += 7


@pytest.mark.parametrize(
    ("damage", "method", "reason"),
    [
        (flip, zipfile.ZIP_STORED, "fails its checksum"),
        (flip, zipfile.ZIP_DEFLATED, r"is damaged \(Error -3|fails its checksum"),
        (move, zipfile.ZIP_STORED, "is not where the archive's directory says"),
        (lambda content, entry: None, zipfile.ZIP_LZMA, "is compressed by method 14; only stored and"),
    ],
)
def test_damaged_members(damage: Callable[..., None], method: int, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "raw.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a/x.png", bytes(range(256)) * 40)
    content = bytearray(path.read_bytes())
    damage(content, next(iter(list_images(path))))
    path.write_bytes(content)
    with pytest.raises(Unusable, match=reason):
        contents(list_images(path))


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_no_image_is_endless(
    kind: str, make_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST", 999)
    source = make_source(kind, tmp_path, {"x.png": bytes(1000)})
    with pytest.raises(Unusable, match="has more than 999 bytes"):
        contents(list_images(source))
    monkeypatch.setattr(module, "LARGEST", 1000)
    assert contents(list_images(source)) == [("x.png", bytes(1000))]


def test_a_bomb_is_not_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 100_000)
    with zipfile.ZipFile(tmp_path / "raw.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.png", bytes(10**7))
    listing = list_images(tmp_path / "raw.zip")
    tracemalloc.start()
    with pytest.raises(Unusable, match="has more than 100,000 bytes"):
        contents(listing)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_a_member_whose_size_no_file_has(tmp_path: Path) -> None:
    path = tmp_path / "raw.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        member = tarfile.TarInfo("x.png")
        member.size = 2**63
        archive.addfile(member)
    with pytest.raises(UserError, match=f"{path} is neither a whole"):
        list_images(path)


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(Unusable, match="is no regular file"):
        contents(list_images(tmp_path))


def test_an_archive_that_ends_early_after_it_was_listed(make_source: Source, tmp_path: Path) -> None:
    source = make_source("tar", tmp_path, {"x.png": bytes(1000)})
    listing = list_images(source)
    os.truncate(source, 900)
    with pytest.raises(Unusable, match="is cut off"):
        contents(listing)


# Labels

NAMES = ["n1/a.png", "n1/b.png", "n10/a.png", "n2/deep/er.png"]


def listing(names: list[str] = NAMES, labels: Any = ...) -> Listing:
    label_file = None if labels is ... else json.dumps(labels).encode()
    return Listing("zip", Path("set.zip"), names, np.zeros((len(names), 4), np.int64), label_file)


def test_a_tar_with_an_absurd_size(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.png")
    info.size = 2**63
    (tmp_path / "set.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(UserError, match=r"neither a whole \.zip nor a whole, uncompressed \.tar"):
        list_images(tmp_path / "set.tar")


def test_labels() -> None:
    labels, classes = labels_of(listing(), 3)
    assert (labels.tolist(), classes) == ([0, 0, 1, 2], ["n1", "n10", "n2"])
    assert labels.dtype == np.int64
    labels, classes = labels_of(listing(labels={"labels": None}), 0)
    assert (labels.tolist(), classes) == ([0, 0, 0, 0], [])
    pairs = [["other.png", 1], ["n2/deep/er.png", 2], ["n10/a.png", 1], ["n1/b.png", 0], ["n1/a.png", 2]]
    labels, classes = labels_of(listing(labels={"labels": pairs}), 3)
    assert (labels.tolist(), classes) == ([2, 0, 1, 2], ["0", "1", "2"])
    assert labels.dtype == np.int64


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
            "gives labels from 3 to 3, but the data set has 3 classes",
        ),
        ({"labels": [[name, -1] for name in NAMES]}, "gives labels from -1 to -1"),
        ({"labels": [[name, 2**70] for name in NAMES]}, ", but the data set has 3"),
        ({"labels": [[name, 0] for name in NAMES[1:]]}, "gives no label for 1 file: n1/a.png."),
        ({"labels": None}, "gives no label for 4 files: n1/a.png, "),
        ({"labels": [[name, [0.5, 1]] for name in NAMES]}, "is not of the form"),
        ({"labels": [[name, True] for name in NAMES]}, "is not of the form"),
        ({"labels": [["a", 1, 2]]}, "is not of the form"),
        ({"labels": 3}, "is not of the form"),
        ([], "is not of the form"),
    ],
)
def test_wrong_label_files(labels: Any, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        labels_of(listing(labels=labels), 3)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("dataset.json in set.zip ")
