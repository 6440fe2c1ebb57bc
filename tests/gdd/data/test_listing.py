"""Sources: the same images in the same order from a folder and from every archive."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gdd.data.listing import Listing, list_images
from gdd.data.reading import ENCRYPTED, Entry, reader
from gdd.data.transforms import Unusable
from gdd.errors import UserError

Files = dict[str, bytes]
Source = Callable[[str, Path, Files], Path]


def contents(listing: Listing) -> list[tuple[str, bytes]]:
    with reader(listing.path) as read:
        entries = listing.entries(np.arange(len(listing)))
        return [(entry.name, read(entry)) for entry in entries]


def test_every_source_lists_the_same(kind: str, photos: Files, make_source: Source, tmp_path: Path) -> None:
    listing = list_images(make_source(kind, tmp_path, photos))
    images = {name: content for name, content in photos.items() if "Image" in name or "image" in name}
    images = {name: content for name, content in images.items() if "__" not in name and "._" not in name}
    assert len(images) == 19
    assert contents(listing) == sorted(images.items())
    assert listing.label_file is None


def test_names_sort_as_whole_paths(make_source: Source, tmp_path: Path) -> None:
    # '-' and '.' come before '/', and '_' and letters after it.
    names = ["B/x.png", "a-b/x.png", "a.png", "a/x.png", "a_b/x.png", "aa.png"]
    for kind in ("folder", "zip"):
        source = make_source(kind, tmp_path / kind, dict.fromkeys(names[::-1], b""))
        assert list_images(source).names == names


def test_the_label_file_is_found(kind: str, photos: Files, make_source: Source, tmp_path: Path) -> None:
    files = {**photos, "dataset.json": b"{}"}
    if kind == "tar of tars":
        kind = "tar"  # there is no such thing of EDM's
    listing = list_images(make_source(kind, tmp_path, files))
    assert listing.label_file == b"{}"
    assert len(listing) == 19


def test_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.png").write_bytes(b"x")
    (tmp_path / "raw" / "sub").mkdir(parents=True)
    (tmp_path / "raw" / "folder").symlink_to(tmp_path / "real")
    (tmp_path / "raw" / "file.png").symlink_to(tmp_path / "real" / "x.png")
    (tmp_path / "raw" / "lost.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "raw" / "sub" / "up").symlink_to(tmp_path / "raw")  # would never end
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


def test_the_fingerprint_is_that_of_names_and_places(
    kind: str, photos: Files, make_source: Source, tmp_path: Path
) -> None:
    def fingerprint(number: int, files: Files) -> str:
        return list_images(make_source(kind, tmp_path / str(number), files)).fingerprint()

    whole = fingerprint(0, photos)
    assert fingerprint(1, photos) == whole
    assert fingerprint(2, dict(list(photos.items())[1:])) != whole
    assert fingerprint(3, {**photos, "a/another.png": b""}) != whole


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("raw.zip", b"PK\3\4 and nothing", "neither a whole .zip nor a whole .tar ("),
        ("raw.tar", b"x" * 600, "neither a whole .zip nor a whole .tar ("),
        ("raw.tar", b"", "neither a whole .zip nor a whole .tar ("),
        ("raw.tar.gz", b"\x1f\x8b\x08 and more", "is compressed as a whole"),
        ("raw.tar.zst", b"\x28\xb5\x2f\xfd and more", "is compressed as a whole"),
    ],
)
def test_what_is_no_archive_is_one_sentence(name: str, content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        list_images(tmp_path / name)
    assert sentence in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cut_archive(photos: Files, make_source: Source, tmp_path: Path) -> None:
    for kind in ("zip", "tar"):
        source = make_source(kind, tmp_path, photos)
        os.truncate(source, source.stat().st_size * 2 // 3)
        with pytest.raises(UserError, match=f"{source} is neither a whole"):
            list_images(source)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        list_images(tmp_path / "nowhere")


# What is wrong with single members of a ZIP


def damaged(tmp_path: Path, damage: Callable[[bytearray, Entry], None], method: int) -> str:
    path = tmp_path / "raw.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a/x.png", bytes(range(256)) * 40)
    entry = list_images(path).entries(np.array([0]))[0]
    content = bytearray(path.read_bytes())
    damage(content, entry)
    path.write_bytes(content)
    entry = list_images(path).entries(np.array([0]))[0]
    with reader(path) as read, pytest.raises(Unusable) as caught:
        read(entry)
    return str(caught.value)


def flip(content: bytearray, entry: Entry) -> None:
    content[entry.offset + 60] ^= 8


def cut_off(content: bytearray, entry: Entry) -> None:
    del content[entry.offset + 60 : entry.offset + 70]


def encrypt(content: bytearray, entry: Entry) -> None:
    content[content.index(b"PK\1\2") + 8] |= 1


def move(content: bytearray, entry: Entry) -> None:
    content[content.index(b"PK\1\2") + 42] += 7


def test_damaged_members(tmp_path: Path) -> None:
    assert damaged(tmp_path, flip, zipfile.ZIP_STORED) == "fails its checksum"
    assert damaged(tmp_path, flip, zipfile.ZIP_DEFLATED).startswith(("is damaged (Error -3", "fails its che"))
    assert damaged(tmp_path, encrypt, zipfile.ZIP_STORED) == "is encrypted"
    assert damaged(tmp_path, move, zipfile.ZIP_STORED) == "is not where the archive's directory says"
    nothing: Callable[[bytearray, Entry], None] = lambda content, entry: None  # noqa: E731
    assert damaged(tmp_path, nothing, zipfile.ZIP_LZMA).startswith("is compressed by method 14;")
    assert ENCRYPTED not in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)


def test_a_tar_that_ends_early_after_it_was_listed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "raw.tar", "w") as archive:
        info = tarfile.TarInfo("x.png")
        info.size = 1000
        archive.addfile(info, io.BytesIO(bytes(1000)))
    entry = list_images(tmp_path / "raw.tar").entries(np.array([0]))[0]
    os.truncate(tmp_path / "raw.tar", 900)
    with reader(tmp_path / "raw.tar") as read, pytest.raises(Unusable, match="is cut off"):
        read(entry)
