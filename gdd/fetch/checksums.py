"""Whether a file is the one that was meant: sizes and checksums of several kinds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 20  # bytes read at a time

_NAMES = {"sha256": "SHA-256", "sha256-prefix": "SHA-256", "md5": "MD5", "git-blob": "git blob SHA-1"}


@dataclass(frozen=True)
class Measured:
    """What a file is."""

    bytes: int
    sha256: str
    checksum: str | None  # of the same kind as the one asked for, e.g. 'md5:0123...'


@dataclass(frozen=True)
class Expected:
    """What a file has to be, as far as anybody knows."""

    bytes: int | None = None
    checksum: str | None = None  # published
    pinned: str | None = None  # SHA-256 of the first copy that was fetched

    @property
    def known(self) -> bool:
        """Whether a file with some of its bytes missing would be noticed."""
        return self != Expected()


def measure(path: Path, checksum: str | None = None) -> Measured:
    """Read a file once and return its size, its SHA-256 and a checksum of the kind of `checksum`."""
    kind, _, value = (checksum or "").partition(":")
    size = path.stat().st_size
    digests = [hashlib.sha256()]
    if kind == "md5":
        digests.append(hashlib.md5(usedforsecurity=False))
    elif kind == "git-blob":
        digests.append(hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False))
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            for digest in digests:
                digest.update(chunk)
    found = digests[-1].hexdigest()[: len(value)]
    return Measured(size, digests[0].hexdigest(), f"{kind}:{found}" if checksum else None)


PAGE = (b"<!doctype", b"<html", b"<?xml", b"version https://git-lfs")  # what stands where a file should


def page_instead(path: Path) -> str | None:
    """Return what is wrong with a file that is a web page or a pointer of Git LFS; None if it is neither."""
    with path.open("rb") as file:
        start = file.read(256).lstrip().lower()
    return "it is a web page or a pointer, not the file itself" if start.startswith(PAGE) else None


def difference(measured: Measured, expected: Expected) -> str | None:
    """Return what is wrong with a file as `<what> is <found> instead of <expected>`; None if nothing is."""
    if expected.checksum is not None and measured.checksum != expected.checksum:
        kind, _, value = expected.checksum.partition(":")
        found = (measured.checksum or "").partition(":")[2]
        dots = "..." if kind == "sha256-prefix" else ""
        return f"its {_NAMES[kind]} is {found}{dots} instead of {value}{dots}"
    if expected.pinned is not None and measured.sha256 != expected.pinned:
        return f"its SHA-256 is {measured.sha256} instead of {expected.pinned}"
    if expected.bytes is not None and measured.bytes != expected.bytes:
        return f"its size is {measured.bytes:,} instead of {expected.bytes:,} bytes"
    return None
