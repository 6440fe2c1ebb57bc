"""Files that are written whole or not at all, and locks that one process holds at a time."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import secrets
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdd.errors import UserError, in_a_line

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

LOCK_POLL = 0.2  # seconds between two attempts
SMALL, MOST_EXPANSION = 1 << 30, 100  # bytes that any archive may expand to, and how many for each of its own
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)  # of file systems (some NFS and Lustre mounts) without


@contextlib.contextmanager
def atomic_path(path: str | Path, *, lasting: bool = True) -> Iterator[Path]:
    """Yield a path beside `path` for a new file; on success flush that to disk and rename it to `path`.

    On an exception, a full disk included, the new file is removed and `path` stays as it was. What need
    not outlast a crash of the machine is not `lasting`: nobody waits for the disk then.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    # The ending is kept because some writers (numpy, matplotlib) decide by it.
    temporary = final.with_name(f".{final.stem}.{secrets.token_hex(4)}{final.suffix}")
    try:
        yield temporary
        if lasting:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(final)
    except OSError as error:
        # A full disk shows in a write, which does not know what the file is called.
        error.filename = error.filename or str(final)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str, *, lasting: bool = True) -> None:
    """Write `text` to `path` atomically."""
    with atomic_path(path, lasting=lasting) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, *, lasting: bool = True) -> None:
    """Write `value` as indented JSON to `path` atomically; NaN is refused because JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n", lasting=lasting)


def write_npz(path: str | Path, **arrays: np.ndarray) -> None:
    """Write compressed arrays to `path` atomically."""
    import numpy as np

    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]


# What numpy and zipfile raise of an .npz that is damaged, encrypted (RuntimeError), or larger than memory.
BROKEN_ARRAYS = (
    LookupError,
    ValueError,
    TypeError,
    ArithmeticError,
    SyntaxError,
    tokenize.TokenError,
    OSError,
    EOFError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def require_bounded(path: str | Path) -> None:
    """Refuse a ZIP archive, as an .npz is one, that expands to far more than it has itself.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it would.
        zipfile.BadZipFile: it is no ZIP archive.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError("it is no file")
    most = max(SMALL, MOST_EXPANSION * Path(path).stat().st_size)
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > most:
        raise ValueError(f"it would expand to {size:,} bytes, more than {most:,}")


def read_json(path: str | Path, kind: type = object) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing, no JSON, or holds something else than a `kind` (dict or list).
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not valid JSON ({in_a_line(error)}); delete it and make it again."
        ) from None
    if not isinstance(value, kind):
        found = f"a {type(value).__name__} instead of a {kind.__name__}"
        raise UserError(f"{path} holds {found}; delete it and make it again.")
    return value


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits.

    Raises:
        UserError: it is a folder.
    """
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder, but a file belongs there; remove it or correct the path.")
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(
    path: str | Path,
    waiting: Callable[[], None] = lambda: None,
    *,
    wait: bool = True,
    everybody: bool = False,
) -> Iterator[None]:
    """Hold the lock file `path`; the kernel releases it however this process ends.

    The file is made if it does not exist, and stays; `everybody` lets all users of the machine lock it. If
    another process holds it, `waiting` is called once. Where the file system has no locks, a warning says so,
    and nothing is held.

    Raises:
        TimeoutError: another process holds it and there is to be no `wait`.
        UserError: a folder lies there.
    """
    from filelock import FileLock, Timeout

    if Path(path).is_dir():
        raise UserError(f"{path} is a folder, but a lock file belongs there; remove it.")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, mode=0o666, thread_local=False) if everybody else FileLock(path, thread_local=False)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise
            waiting()
            lock.acquire(poll_interval=LOCK_POLL)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning("%s cannot be locked on this file system; going on without.", path)
    try:
        yield
    finally:
        lock.release()
