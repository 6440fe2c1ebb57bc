"""Which images a folder, a .zip or a .tar holds, in the order of the data set made from it; and their bytes.

An archive's directory is read once: every image has its place in it, so that many processes can read the
images of one archive without each listing it again.
"""

from __future__ import annotations

import array
import contextlib
import hashlib
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np

from gdd.errors import UserError, in_a_line

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
LABEL_FILE = "dataset.json"  # in which EDM's own archives say what label an image has

LARGEST = 1 << 28  # bytes of an image, or of a label file, as they are stored and when they are expanded

PLAIN = -1  # neither compressed nor checksummed: a file of its own, or a .tar's member


class Unusable(Exception):
    """An image that cannot become pixels; the message is a reason to print behind its name."""


class Entry(NamedTuple):
    """A file's name within its source and, for an archive, its place there."""

    name: str
    offset: int = 0  # of the content; in a ZIP, of the member's local header
    size: int = 0  # as stored
    checksum: int = 0  # CRC-32, in a ZIP
    method: int = PLAIN  # of compression, in a ZIP


@dataclass(frozen=True)
class Listing:
    """The images of a source, sorted by name as EDM's preparation sorts them.

    Names are relative, with '/' between folders.
    """

    kind: Literal["folder", "zip", "tar"]
    path: Path  # the folder, or the archive's file
    names: list[str]
    places: np.ndarray  # int64 [N, 4]: the fields of `Entry` after the name
    label_file: bytes | None

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Entry]:
        return (Entry(name, *place.tolist()) for name, place in zip(self.names, self.places, strict=True))

    def only(self, indices: Sequence[int] | np.ndarray) -> Listing:
        """Return a listing of these images, without labels, to be sent to other processes."""
        names = [self.names[index] for index in indices]
        return replace(self, names=names, places=self.places[indices], label_file=None)

    def fingerprint(self) -> str:
        """Return a hash that changes when an image is added, removed, renamed or moved in its archive."""
        digest = hashlib.sha256("\0".join([self.kind, *self.names]).encode(errors="replace"))
        digest.update(self.places.tobytes())
        return digest.hexdigest()


def list_images(raw: Path) -> Listing:
    """List the images in a folder, .zip or .tar, or in a folder inside an archive (`images.zip/train`).

    Hidden files and what is no image by its ending are passed over; a .tar inside a .tar counts as a folder
    of its name, because ImageNet comes like that. Of several files of one name the last counts, as it would
    after unpacking.

    Raises:
        UserError: there is no such file, it is neither of these, or it is cut off.
    """
    if raw.is_dir():
        return _sorted("folder", raw, "", _in_folder(raw))
    archive = next((path for path in [raw, *raw.parents] if path.is_file()), None)
    if archive is None:
        raise UserError(f"{raw} does not exist.")
    inside = "".join(f"{part}/" for part in raw.relative_to(archive).parts)
    try:
        if zipfile.is_zipfile(archive):
            return _sorted("zip", archive, inside, _in_zip(archive))
        return _sorted("tar", archive, inside, _in_tar(archive))
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OverflowError, ValueError, RuntimeError) as error:
        # The images of a .tar.gz cannot be reached one by one.
        raise UserError(
            f"{archive} is neither a whole .zip nor a whole, uncompressed .tar ({in_a_line(error)}); "
            "unpack it and give the folder, or get another copy."
        ) from None


def _in_folder(root: Path) -> Iterator[Entry]:
    for folder, inner, files in os.walk(root, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        below = "" if folder == str(root) else f"{Path(folder).relative_to(root).as_posix()}/"
        yield from (Entry(f"{below}{name}") for name in files)


def _in_zip(archive: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            yield Entry(info.filename, info.header_offset, info.compress_size, info.CRC, info.compress_type)


def _in_tar(archive: Path) -> Iterator[Entry]:
    with tarfile.open(archive, "r:") as outer:
        for member in _files(outer):
            if not member.name.endswith(".tar"):
                yield Entry(member.name, member.offset_data, member.size)
                continue
            with tarfile.open(fileobj=outer.extractfile(member), mode="r:") as inner:
                for image in _files(inner):
                    name = f"{member.name.removesuffix('.tar')}/{image.name.removeprefix('./')}"
                    yield Entry(name, member.offset_data + image.offset_data, image.size)


def _files(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        if member.isreg():
            yield member
        archive.members = []  # type: ignore[attr-defined]  # else it keeps them all


def _sorted(
    kind: Literal["folder", "zip", "tar"], path: Path, inside: str, found: Iterator[Entry]
) -> Listing:
    """Return the images among the files that were found in a folder of the source."""
    names: list[str] = []
    places = array.array("q")
    label_file = None
    for entry in found:
        name = entry.name.removeprefix("./")
        if not name.startswith(inside):
            continue
        name = name.removeprefix(inside)
        if name == LABEL_FILE:
            label_file = _label_file(path, entry)
        elif _is_image(name):
            names.append(name)
            places.extend(entry[1:])
    last = {name: index for index, name in enumerate(names)}
    order = sorted(last)
    columns = np.array(places, np.int64).reshape(-1, 4)[[last[name] for name in order]]
    return Listing(kind, path, order, columns, label_file)


def _is_image(name: str) -> bool:
    hidden = "/." in f"/{name}" or "__MACOSX/" in name
    return f".{name.rpartition('.')[2].lower()}" in ENDINGS and not hidden


def _label_file(path: Path, entry: Entry) -> bytes:
    try:
        with reader(path) as read:
            return read(entry)
    except Unusable as error:
        raise UserError(f"{LABEL_FILE} in {path} {error}.") from None


@contextlib.contextmanager
def reader(source: Path) -> Iterator[Callable[[Entry], bytes]]:
    """Yield a function that returns a file's content, or raises `Unusable` if it is not whole."""
    with contextlib.nullcontext() if source.is_dir() else source.open("rb") as archive:

        def read(entry: Entry) -> bytes:
            try:
                return _member(archive, entry) if archive else _file(source / entry.name)
            except OSError as error:
                raise Unusable(f"cannot be read ({error.strerror or error})") from None

        yield read


def _file(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device may have no end
        raise Unusable("is no regular file")
    _require_size(status.st_size)
    return path.read_bytes()


def _require_size(size: int) -> None:
    if size > LARGEST:
        raise Unusable(f"has more than {LARGEST:,} bytes")


def _member(archive: BinaryIO, entry: Entry) -> bytes:
    _require_size(entry.size)
    archive.seek(entry.offset)
    if entry.method != PLAIN:
        # Of a ZIP member's header only the lengths of its name and extra field count (APPNOTE 4.3.7).
        header = archive.read(30)
        if not header.startswith(b"PK\3\4"):
            raise Unusable("is not where the archive's directory says")
        archive.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
    content = archive.read(entry.size)
    if len(content) != entry.size:
        raise Unusable("is cut off")
    if entry.method == PLAIN:
        return content
    if entry.method == zipfile.ZIP_DEFLATED:
        try:
            expander = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
            content = expander.decompress(content, LARGEST + 1)
            _require_size(len(content))
            if not expander.eof:
                raise Unusable("is damaged (it has no end)")
        except zlib.error as error:
            raise Unusable(f"is damaged ({error})") from None
    elif entry.method != zipfile.ZIP_STORED:
        raise Unusable(f"is compressed by method {entry.method}; only stored and deflated files are read")
    if zlib.crc32(content) != entry.checksum:
        raise Unusable("fails its checksum")
    return content
