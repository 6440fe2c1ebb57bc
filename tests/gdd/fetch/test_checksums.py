"""Checksums of every kind, against the tools they come from."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from gdd.fetch.checksums import CHUNK, Expected, Measured, difference, measure

CONTENTS = [b"", b"blob 3\0abc\r\n\xff", bytes(range(256)) * 4097]  # the last is longer than a chunk


@pytest.mark.parametrize("content", CONTENTS, ids=len)
@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_a_git_blob_is_what_git_says(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    command = ["git", "hash-object", "--no-filters", str(file)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.strip()
    assert measure(file, f"git-blob:{'0' * 40}").checksum == f"git-blob:{said}"


@pytest.mark.parametrize("content", CONTENTS, ids=len)
def test_every_kind(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    sha256, md5 = hashlib.sha256(content).hexdigest(), hashlib.md5(content).hexdigest()
    assert measure(file) == Measured(len(content), sha256, None)
    for right in (f"sha256:{sha256}", f"sha256-prefix:{sha256[:8]}", f"md5:{md5}"):
        measured = measure(file, right)
        assert measured == Measured(len(content), sha256, right)
        assert difference(measured, Expected(len(content), right, sha256)) is None


def test_the_contents_span_chunks() -> None:
    assert len(CONTENTS[-1]) > CHUNK


@pytest.mark.parametrize(
    ("expected", "sentence"),
    [
        (Expected(checksum="md5:22"), "its MD5 is 11 instead of 22"),
        (Expected(pinned="cc"), "its SHA-256 is aa instead of cc"),
        (Expected(bytes=1234567), "its size is 5 instead of 1,234,567 bytes"),
    ],
)
def test_both_are_named(expected: Expected, sentence: str) -> None:
    assert difference(Measured(5, "aa", "md5:11"), expected) == sentence


def test_a_prefix_is_shown_as_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    wrong = "sha256-prefix:01234567"
    assert difference(measure(file, wrong), Expected(checksum=wrong)) == (
        "its SHA-256 is e3b0c442... instead of 01234567..."
    )
