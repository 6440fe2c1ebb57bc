"""One file out of a folder, .zip or .tar by its place, without opening the archive's directory again."""

from __future__ import annotations

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from gdd.data.transforms import Unusable

PLAIN = -1  # neither compressed nor checksummed: a .tar's member
ENCRYPTED = 99  # the compression method by which encrypted ZIP members are marked
MEMBER = np.dtype([("offset", "<i8"), ("size", "<i8"), ("checksum", "<u4"), ("method", "<i4")])

# The start of a ZIP member, of which only the lengths of its name and extra field count (APPNOTE 4.3.7).
_LOCAL_HEADER = struct.Struct("<4s22xHH")


class Entry(NamedTuple):
    """A file's name within its source and, for an archive, its place there (as in `MEMBER`)."""

    name: str
    offset: int = 0  # of the content; in a ZIP, of the member's local header
    size: int = 0  # as stored
    checksum: int = 0  # CRC-32, in a ZIP
    method: int = PLAIN  # of compression, in a ZIP


@contextlib.contextmanager
def reader(source: Path) -> Iterator[Callable[[Entry], bytes]]:
    """Yield a function that returns a file's content, or raises `Unusable` if it is not whole."""
    if source.is_dir():
        yield lambda entry: _whole((source / entry.name).read_bytes)
        return
    with source.open("rb") as archive:
        yield lambda entry: _whole(lambda: _member(archive, entry))


def _whole(read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except OSError as error:
        raise Unusable(f"cannot be read ({error.strerror or error})") from None


def _member(archive: BinaryIO, entry: Entry) -> bytes:
    archive.seek(entry.offset)
    if entry.method != PLAIN:
        header = archive.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
            raise Unusable("is not where the archive's directory says")
        _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        archive.seek(name_length + extra_length, 1)
    content = archive.read(entry.size)
    if len(content) != entry.size:
        raise Unusable("is cut off")
    if entry.method == PLAIN:
        return content
    if entry.method == zipfile.ZIP_DEFLATED:
        try:
            content = zlib.decompress(content, wbits=-zlib.MAX_WBITS)
        except zlib.error as error:
            raise Unusable(f"is damaged ({error})") from None
    elif entry.method == ENCRYPTED:
        raise Unusable("is encrypted")
    elif entry.method != zipfile.ZIP_STORED:
        raise Unusable(f"is compressed by method {entry.method}; only stored and deflated files are read")
    if zlib.crc32(content) != entry.checksum:
        raise Unusable("fails its checksum")
    return content
