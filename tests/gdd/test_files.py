"""Files appear whole or not at all; locks have one holder."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import resource
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gdd import files
from gdd.errors import UserError
from gdd.files import atomic_path, locked, read_json, sha256, write_json, write_npz, write_text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.json"
    path.write_text("old")
    return path


def contents(folder: Path) -> dict[str, str]:
    """Every file, hidden ones included."""
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_success(tmp_path: Path) -> None:
    final = tmp_path / "new" / "folder" / "some.tar.gz"
    with atomic_path(final) as temporary:
        assert temporary.parent == final.parent  # a rename must not cross file systems
        assert temporary.suffix == ".gz"
        assert temporary.name.startswith(".")  # `snapshots/*` must not show it
        temporary.write_text("new")
        assert not final.exists()
    assert contents(final.parent) == {"some.tar.gz": "new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_alone(file: Path, error: type[BaseException]) -> None:
    for path in (file, file.with_name("new.json")):
        with pytest.raises(error), atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error
    assert contents(file.parent) == {"some.json": "old"}


@pytest.fixture
def _small_files() -> Iterator[None]:
    """Let no file grow beyond 50 kB: to whoever writes, that is a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("_small_files")
def test_a_full_disk_leaves_the_old_file_alone(file: Path) -> None:
    with pytest.raises(OSError) as caught:
        write_text(file, "x" * 100_000)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(file))
    with pytest.raises(OSError):
        write_npz(file.with_name("some.npz"), noise=np.random.default_rng(0).random(100_000))
    assert contents(file.parent) == {"some.json": "old"}


def test_the_bytes_are_on_the_disk_before_the_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []

    def fsync(handle: int) -> None:
        flushed.append((os.fstat(handle).st_size, file.read_text()))

    monkeypatch.setattr(files.os, "fsync", fsync)
    write_text(file, "new content")
    assert flushed == [(len("new content"), "old")]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_mode_follows_the_umask(file: Path, mask: int, mode: int) -> None:
    previous = os.umask(mask)
    try:
        write_text(file, "new")
        with locked(file.with_name("lock")), locked(file.with_name("open"), everybody=True):
            pass
    finally:
        os.umask(previous)
    modes = [stat.S_IMODE(file.with_name(name).stat().st_mode) for name in ("some.json", "lock", "open")]
    assert modes == [mode, mode, 0o666]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    value = {"é": [1, 2.5, None, "x"]}
    write_json(tmp_path / "some.json", value)
    assert read_json(tmp_path / "some.json") == value
    assert sha256(tmp_path / "some.json") == hashlib.sha256((tmp_path / "some.json").read_bytes()).hexdigest()
    write_npz(tmp_path / "some.npz", a=np.arange(3), b=np.eye(2))
    with np.load(tmp_path / "some.npz") as arrays:
        assert (arrays["a"].tolist(), arrays["b"].dtype) == ([0, 1, 2], np.float64)
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "some.json", {"fid": float("nan")})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"{", "is not valid JSON ("), (b"\xff", "is not valid JSON ("), (None, "does not exist.")],
)
def test_no_json_is_one_sentence(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    path = tmp_path / "some.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path} {sentence}")
    assert "\n" not in str(caught.value)


# Locks


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    path, told = tmp_path / "new" / "lock", []
    with locked(path), pytest.raises(TimeoutError), locked(path, lambda: told.append("no"), wait=False):
        pass
    with locked(path, wait=False):
        pass
    assert told == []


def test_the_next_one_waits_until_the_holder_has_ended(tmp_path: Path) -> None:
    forking = multiprocessing.get_context("fork")
    held = forking.Event()

    def hold() -> None:
        with locked(tmp_path / "lock"):
            held.set()
            time.sleep(60)

    holder = forking.Process(target=hold)
    holder.start()
    assert held.wait(30)
    with locked(tmp_path / "lock", holder.kill):
        holder.join(30)
    assert holder.exitcode == -signal.SIGKILL


def test_a_file_system_without_locks_is_used_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path / "lock"):
        assert f"{tmp_path / 'lock'} cannot be locked on this file system" in caplog.text


def test_a_folder_or_another_kind_of_json_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder, but a file belongs there"):
        sha256(tmp_path)
    with pytest.raises(UserError, match="is a folder, but a lock file belongs there"), locked(tmp_path):
        pass
    (tmp_path / "some.json").write_text("{}")
    assert read_json(tmp_path / "some.json", dict) == {}
    with pytest.raises(UserError, match="holds a dict instead of a list; delete it and make it again"):
        read_json(tmp_path / "some.json", list)
