"""Which images a folder, a .zip or a .tar holds, in the order in which they become a data set."""

from __future__ import annotations

import array
import hashlib
import os
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import numpy as np

from gdd.data.reading import ENCRYPTED, MEMBER, PLAIN, Entry, reader
from gdd.data.transforms import Unusable
from gdd.errors import UserError

Kind = Literal["folder", "zip", "tar"]

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
LABEL_FILE = "dataset.json"  # in which EDM's own archives say what label an image has
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstandard

Found = Iterator[tuple[str, tuple[int, int, int, int]]]  # a name, and its place as in MEMBER
NOWHERE = (0, 0, 0, PLAIN)


@dataclass(frozen=True)
class Listing:
    """The images of a source, sorted by name as EDM's preparation sorts them.

    Names are relative, with '/' between folders; `members` says where each lies in the archive. They are all
    that grows with the number of images: about 150 bytes for each, and 600 while a ZIP is listed.
    """

    kind: Kind
    path: Path  # the folder, or the archive's file
    inside: str  # the folder within the archive that was asked for, ending in '/'; else empty
    names: list[str]
    members: np.ndarray
    label_file: bytes | None

    def __len__(self) -> int:
        return len(self.names)

    def entries(self, indices: np.ndarray) -> list[Entry]:
        """Return what a reader needs to find these images."""
        places = self.members[indices].tolist()
        return [Entry(self.names[index], *place) for index, place in zip(indices, places, strict=True)]

    def fingerprint(self) -> str:
        """Return a hash that changes when an image is added, removed, renamed or moved in its archive."""
        digest = hashlib.sha256("\0".join([self.kind, self.inside, *self.names]).encode(errors="replace"))
        digest.update(self.members.tobytes())
        return digest.hexdigest()


def list_images(raw: Path) -> Listing:
    """List the images in a folder, .zip or .tar, or in a folder inside an archive (`images.zip/train`).

    Hidden files and what is no image by its ending are passed over; a .tar inside a .tar counts as a folder
    of its name, because ImageNet comes like that.

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
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise UserError(f"{archive} is neither a whole .zip nor a whole .tar ({error}).") from None


def _in_folder(root: Path, below: str = "", above: frozenset[tuple[int, int]] = frozenset()) -> Found:
    status = (root / below).stat()
    above |= {(status.st_dev, status.st_ino)}
    with os.scandir(root / below) as entries:
        for entry in entries:
            if entry.is_dir():
                inner = entry.stat()
                # A link to a folder that it lies in would never end.
                if not entry.name.startswith(".") and (inner.st_dev, inner.st_ino) not in above:
                    yield from _in_folder(root, f"{below}{entry.name}/", above)
            else:  # a link that leads nowhere too: it is a file that is missing
                yield f"{below}{entry.name}", NOWHERE


def _in_zip(archive: Path) -> Found:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            if not info.is_dir():
                method = ENCRYPTED if info.flag_bits & 1 else info.compress_type
                yield info.filename, (info.header_offset, info.compress_size, info.CRC, method)


def _in_tar(archive: Path) -> Found:
    with archive.open("rb") as file:
        if file.read(6).startswith(COMPRESSED):
            raise UserError(
                f"{archive} is compressed as a whole, so that its images cannot be reached one by one; "
                "unpack it and give the folder."
            )
    with tarfile.open(archive, "r:") as outer:
        for member in _files(outer):
            if not member.name.endswith(".tar"):
                yield member.name, (member.offset_data, member.size, 0, PLAIN)
                continue
            with tarfile.open(fileobj=outer.extractfile(member), mode="r:") as inner:
                for image in _files(inner):
                    name = f"{member.name.removesuffix('.tar')}/{image.name.removeprefix('./')}"
                    yield name, (member.offset_data + image.offset_data, image.size, 0, PLAIN)


def _files(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        if member.isreg():
            yield member
        archive.members = []  # type: ignore[attr-defined]  # else it keeps them all


def _sorted(kind: Kind, path: Path, inside: str, found: Found) -> Listing:
    """Keep the images below `inside`, sorted; of files of one name the last, as unpacking would."""
    names: list[str] = []
    places = array.array("q")
    label_file = None
    for full_name, place in found:
        name = full_name.removeprefix("./")
        if not name.startswith(inside):
            continue
        name = name.removeprefix(inside)
        if name == LABEL_FILE:
            label_file = Entry(name, *place)
        elif _is_image(name):
            names.append(name)
            places.extend(place)
    order = sorted(range(len(names)), key=names.__getitem__)
    order = [
        index
        for index, after in zip_longest(order, order[1:])
        if after is None or names[index] != names[after]
    ]
    columns = np.array(places, dtype=np.int64).reshape(-1, 4)[order]
    members = np.empty(len(order), MEMBER)
    for column, field in enumerate(MEMBER.names or ()):
        members[field] = columns[:, column]
    return Listing(kind, path, inside, [names[index] for index in order], members, _content(path, label_file))


def _content(path: Path, label_file: Entry | None) -> bytes | None:
    if label_file is None:
        return None
    try:
        with reader(path) as read:
            return read(label_file)
    except Unusable as error:
        raise UserError(f"{LABEL_FILE} in {path} {error}.") from None


def _is_image(name: str) -> bool:
    hidden = "/." in f"/{name}" or "__MACOSX/" in name
    return f".{name.rpartition('.')[2].lower()}" in ENDINGS and not hidden
