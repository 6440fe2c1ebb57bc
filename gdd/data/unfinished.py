"""An image array that is still being filled, so that a preparation that was killed goes on where it was."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import zlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TextIO

import numpy as np

from gdd.errors import UserError

PART, JOURNAL = "images.npy.part", "images.npy.journal"


class Unfinished:
    """`images.npy.part` in `folder`, whose rows come chunk by chunk, and a journal of the chunks done.

    It is entered to take up what an earlier process left, if that was made from the same `fingerprint`, or
    else to start with an empty file. Only one process at a time can. Nothing waits for the disk: chunks that
    a crash of the machine lost do not match their checksum in the journal, and count as not done.

    Args:
        folder: where both files lie.
        shape: of the whole array, `[N, H, W, C]`.
        chunk: images in a chunk; the last one can have fewer.
        fingerprint: decides whether what is there belongs to the same preparation.

    Raises:
        UserError: another process is at it, or the array does not fit on the disk (both on entering).
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], chunk: int, fingerprint: str) -> None:
        self.part = folder / PART
        self.shape = shape
        self.done: set[int] = set()
        self.offset = 0  # of the first row, in bytes
        self._chunk_bytes = chunk * int(np.prod(shape[1:]))
        self._fingerprint = fingerprint
        self._journal_path = folder / JOURNAL
        self._file: BinaryIO
        self._journal: TextIO

    def __enter__(self) -> Self:
        self.part.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.fdopen(os.open(self.part, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            self._lock()
            self.offset = self._header()
            self.done = self._finished_chunks()
            if not self.done:
                self._start()
        except BaseException:
            self._file.close()
            raise
        self._journal = self._journal_path.open("a", encoding="ascii")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._journal.close()
        self._file.close()

    def add(self, chunk: int, checksum: int) -> None:
        """Note that the rows of a chunk are written, and the CRC-32 of their bytes."""
        self._journal.write(f"{chunk} {checksum}\n")
        self._journal.flush()
        self.done.add(chunk)

    def remove_journal(self) -> None:
        """Forget the chunks: the array is complete."""
        self._journal_path.unlink(missing_ok=True)

    @property
    def _size(self) -> int:
        return self.offset + int(np.prod(self.shape))

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return  # a file system without locks
            raise UserError(f"{self.part} is being written by another process; let it end first.") from None

    def _header(self) -> int:
        """Write the array's header if the file is empty, and return its length."""
        if os.fstat(self._file.fileno()).st_size == 0:
            header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
            np.lib.format.write_array_header_1_0(self._file, header)
            self._file.flush()
        self._file.seek(0)
        try:
            np.lib.format.read_magic(self._file)
            shape, _, _ = np.lib.format.read_array_header_1_0(self._file)
        except ValueError:
            shape = ()
        if shape == self.shape:
            return self._file.tell()
        self._file.seek(0)
        self._file.truncate()
        return self._header()

    def _finished_chunks(self) -> set[int]:
        if os.fstat(self._file.fileno()).st_size != self._size or not self._journal_path.exists():
            return set()
        text = self._journal_path.read_text(encoding="ascii", errors="replace")
        # What stands behind the last line end was cut off while it was written.
        first, *lines = text.split("\n")[:-1] or [""]
        if first != self._fingerprint:
            return set()
        matches = [re.fullmatch(r"(\d+) (\d+)", line) for line in lines]
        done = {int(match[1]): int(match[2]) for match in matches if match}
        return {chunk for chunk, checksum in sorted(done.items()) if self._checksum(chunk) == checksum}

    def _checksum(self, chunk: int) -> int:
        self._file.seek(self.offset + chunk * self._chunk_bytes)
        return zlib.crc32(self._file.read(self._chunk_bytes))

    def _start(self) -> None:
        self._journal_path.write_text(f"{self._fingerprint}\n", encoding="ascii")
        self._file.truncate(self.offset)  # so that no old row is left
        free = shutil.disk_usage(self.part.parent).free
        if free < self._size:
            raise UserError(
                f"{self.part.parent} has {free / 1e9:.1f} GB free, but the images take "
                f"{self._size / 1e9:.1f} GB; make room or change the place."
            )
        self._file.truncate(self._size)
