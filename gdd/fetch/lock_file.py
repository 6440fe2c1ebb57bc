"""`resources/lock.yaml`: what every fetched file is, and whether a file is the one that was meant."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field

from gdd.config.record import Record, parse, read_yaml
from gdd.config.sources import Source
from gdd.files import locked, write_text

NAME = "lock.yaml"

HEADER = """\
# Written by `gdd fetch`. A file whose publisher gives no checksum is trusted the first time, and has to have
# the SHA-256 written here ever after. To accept another, delete the file and its lines here, and fetch again.
"""

# How the wrong files begin that servers give: a log-in page, an error, a pointer of Git LFS.
PAGE = (b"<!doctype", b"<html", b"<?xml", b"version https://git-lfs")


class Entry(Record):
    """What a file was when it was last read from end to end."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    checksum: str | None  # the published one it agreed with; null: trusted on first use
    bytes: Annotated[int, Field(ge=0)]
    mtime_ns: int  # with the size, tells whether it has to be read again


class Lock(Record):
    """The entries by path below the folder."""

    files: dict[str, Entry] = {}


def read_lock(resources: Path) -> dict[str, Entry]:
    """Return the entries by path below `resources`; none if nothing has been fetched yet.

    Raises:
        UserError: the file is broken.
    """
    path = resources / NAME
    return parse(Lock, read_yaml(path), path).files if path.exists() else {}


def record(resources: Path, path: str, entry: Entry) -> None:
    """Add or replace one entry, whatever other processes add at the same time."""
    with locked(resources / f".{NAME}.lock"):
        files = {**read_lock(resources), path: entry}
        plain = {"files": {key: files[key].model_dump() for key in sorted(files)}}
        write_text(resources / NAME, HEADER + yaml.safe_dump(plain))


def measure(path: Path, checksum: str | None) -> Entry:
    """Read a file and return what it is, with a checksum of the same kind as the given one."""
    kind, _, value = (checksum or "").partition(":")
    status = path.stat()
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        found = sha256[: len(value)]
        file.seek(0)
        if kind == "md5":
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        elif kind == "git-blob":  # what `git hash-object` prints
            start = hashlib.sha1(b"blob %d\0" % status.st_size, usedforsecurity=False)
            found = hashlib.file_digest(file, lambda: start).hexdigest()
    measured = f"{kind}:{found}" if checksum else None
    return Entry(sha256=sha256, checksum=measured, bytes=status.st_size, mtime_ns=status.st_mtime_ns)


def difference(path: Path, found: Entry, source: Source, first: Entry | None) -> str | None:
    """Return in which way a file is not its source's, or not the copy fetched first; None if it is."""
    if found.checksum != source.checksum:
        return f"its checksum is {found.checksum} instead of {source.checksum}"
    if first and found.sha256 != first.sha256:
        return f"its SHA-256 is {found.sha256} instead of {first.sha256}, that of the copy fetched first"
    if source.bytes not in (None, found.bytes):
        return f"its size is {found.bytes:,} instead of {source.bytes:,} bytes"
    with path.open("rb") as file:
        if file.read(256).lstrip().lower().startswith(PAGE):
            return "it is a web page or a pointer, not the file itself"
    return None
