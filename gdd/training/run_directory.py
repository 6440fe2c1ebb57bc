"""A run's folder: one owner at a time, resumable state apart from what is published at the end."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gdd.errors import UserError
from gdd.files import read_json, write_json
from gdd.training.checkpoints import CheckpointStore

log = logging.getLogger(__name__)

LOCK_PATIENCE = 24 * 3600.0  # seconds to wait for an earlier process of the same run to end


class RunDirectory:
    """The folder of one run.

    Everything a run writes before it ends lies in `state/`, which no workflow declares as an output (a
    workflow manager deletes declared outputs when a job fails). `publish` hard-links the finished files
    beside it. State of another recipe is set aside, never resumed.

    Args:
        folder: the run's folder.
        fingerprint: the hash of all that decides the run's result.
        patience: seconds to wait while another process owns the folder.
    """

    def __init__(self, folder: str | Path, fingerprint: str, patience: float = LOCK_PATIENCE) -> None:
        self.folder = Path(folder)
        self.state = self.folder / "state"
        self.fingerprint = fingerprint
        self.patience = patience
        self.checkpoints = CheckpointStore(self.state / "checkpoints")
        self._lock: int | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._own()
        try:
            self._take_over_state()
        except BaseException:
            self._disown()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._disown()

    @property
    def finished(self) -> bool:
        """Whether the run has ended and only its files' publication may be missing."""
        return (self.state / "finished.json").exists()

    def finish(self) -> None:
        """Mark the run as ended; its checkpoints are not needed any more."""
        write_json(self.state / "finished.json", {"fingerprint": self.fingerprint})
        self.checkpoints.clear()

    def publish(self, names: list[str]) -> None:
        """Hard-link files or folders of `state/` into the run's folder, replacing what stands there."""
        for name in names:
            source, target = self.state / name, self.folder / name
            if source.is_dir():
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(source, target, copy_function=_link)
            else:
                _link(source, target)

    def _own(self) -> None:
        """Take the lock, which the kernel releases however its owner ends."""
        path = self.folder / "lock"
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        deadline = time.monotonic() + self.patience
        told = False
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                owner = path.read_text(encoding="utf-8").strip() or "another process"
                if time.monotonic() >= deadline:
                    os.close(self._lock)
                    self._lock = None
                    raise UserError(
                        f"The run {self.folder} is being trained by {owner}; end it first."
                    ) from None
                if not told:
                    log.warning("The run %s is being trained by %s; waiting for it.", self.folder, owner)
                    told = True
                time.sleep(0.5)
        os.ftruncate(self._lock, 0)
        os.write(self._lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def _disown(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_over_state(self) -> None:
        identity = self.state / "identity.json"
        if self.state.exists() and identity.exists():
            found: dict[str, Any] = read_json(identity)
            if found.get("fingerprint") != self.fingerprint:
                aside = self.folder / f"state.{found.get('fingerprint', 'unknown')}.{int(time.time())}"
                self.state.rename(aside)
                log.warning("The state of another recipe was set aside as %s.", aside)
        self.state.mkdir(parents=True, exist_ok=True)
        if not identity.exists():
            write_json(identity, {"fingerprint": self.fingerprint})
        for leftover in self.state.rglob(".*"):  # temporary files of a process that was killed
            leftover.unlink(missing_ok=True)


def _link(source: str | Path, target: str | Path) -> None:
    """Hard-link `source` to `target` in one step; copy where the file system has no hard links."""
    temporary = Path(target).with_name(f".{Path(target).name}.publishing")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copy2(source, temporary)
    temporary.replace(target)
    # POSIX: renaming one link of a file to another link of it does nothing at all.
    temporary.unlink(missing_ok=True)
