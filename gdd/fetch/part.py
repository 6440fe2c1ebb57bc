"""`<name>.part`: what has come of a file so far, and beside it of which file on the server it is a part."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from gdd.errors import UserError
from gdd.files import read_json, write_json


@dataclass(frozen=True)
class Origin:
    """A file on a server, as it was when the download began."""

    url: str
    validator: str | None  # strong ETag or date; without one nobody can tell whether the file has changed
    total: int | None  # bytes


class Part:
    """An incomplete file that this process holds alone; every byte written is in the file at once."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path = path
        self.handle = handle
        self._sidecar = path.with_name(f"{path.name}.json")

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return os.fstat(self.handle).st_size

    def origin(self, url: str) -> Origin | None:
        """Return what this is a part of; None where a download of `url` cannot go on from it."""
        if not self.size or not self._sidecar.exists():
            return None
        try:
            origin = Origin(**read_json(self._sidecar))
        except (UserError, TypeError):
            return None
        return origin if origin.url == url and origin.validator else None

    def clear(self) -> None:
        """Throw away what is there."""
        os.ftruncate(self.handle, 0)

    def restart(self, origin: Origin) -> None:
        """Throw away what is there and begin a part of `origin`."""
        self.clear()
        write_json(self._sidecar, asdict(origin))

    def append(self, chunk: bytes) -> None:
        """Write to the end.

        Raises:
            UserError: the disk is full; what is there can be gone on from.
        """
        os.lseek(self.handle, 0, os.SEEK_END)
        rest = memoryview(chunk)
        try:
            while rest:
                rest = rest[os.write(self.handle, rest) :]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"{self.path}: the disk is full after {self.size:,} bytes; make room and run the same "
                "command again, which goes on from there."
            ) from None

    def reserve(self, missing: int) -> None:
        """Check that `missing` more bytes fit on the disk.

        Raises:
            UserError: they do not.
        """
        free = shutil.disk_usage(self.path.parent).free
        if missing > free:
            raise UserError(
                f"{self.path.with_suffix('')} needs {missing:,} more bytes, and the disk of "
                f"{self.path.parent} has {free:,} left; make room or choose another --resources."
            )

    def remove(self) -> None:
        """Leave no trace."""
        self._sidecar.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def become(self, final: Path) -> None:
        """Flush to disk and take the final name."""
        os.fsync(self.handle)
        self.path.replace(final)
        self._sidecar.unlink(missing_ok=True)
