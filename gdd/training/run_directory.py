"""A run's folder: one owner at a time, checkpoints, and resumable state apart from what is published."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from gdd.errors import UserError
from gdd.files import atomic_path, locked, read_json, sha256, write_json

log = logging.getLogger(__name__)

KEPT = 2  # checkpoints


class RunDirectory:
    """The folder of one run, which `own_run` opens.

    Everything a run writes before it ends lies in `state/`, which no workflow declares as an output (a
    workflow manager deletes declared outputs when a job fails). `publish` hard-links the finished files
    beside it. `fingerprint` is the hash of all that decides the run's result.

    Checkpoints are named `<images>-<hash of the file>.pt`: the hash tells a damaged file from a whole one,
    whatever damaged it.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.checkpoints = self.state / "checkpoints"
        self.fingerprint = fingerprint
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[Path] | None = None

    @property
    def finished(self) -> bool:
        """Whether the run has ended and only its files' publication may be missing."""
        return (self.state / "finished.json").exists()

    def finish(self) -> None:
        """Mark the run as ended; its checkpoints are not needed any more."""
        write_json(self.state / "finished.json", {"fingerprint": self.fingerprint})
        for path in self.checkpoints.glob("*"):
            if path.is_file():
                path.unlink()

    def publish(self, names: list[str]) -> None:
        """Hard-link files or folders of `state/` into the run's folder, replacing what stands there."""
        for name in names:
            source, target = self.state / name, self.folder / name
            if source.is_dir():
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(source, target, copy_function=_link)
            else:
                _link(source, target)

    def begin_checkpoint(self, images: int, content: dict[str, Any]) -> None:
        """Copy what a checkpoint is to hold, and let a thread write it; wait for the one before.

        Until it is written the host's memory holds it twice: the copy, and the file as it will be.

        Raises:
            OSError: the one before could not be written.
        """
        self.wait()
        copy = tree_map_only(Tensor, _on_host, content)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self._writing = self._thread.submit(self.save_checkpoint, images, copy)

    def wait(self) -> None:
        """Wait for the checkpoint that is being written.

        Raises:
            OSError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    @contextlib.contextmanager
    def written(self) -> Iterator[None]:
        """Leave when the last checkpoint is written, however what is inside ends.

        Raises:
            OSError: it could not be written.
        """
        try:
            yield
        finally:
            self.wait()

    def save_checkpoint(self, images: int, content: dict[str, Any]) -> Path:
        """Write a checkpoint, then remove all but the newest two.

        Raises:
            OSError: it cannot be written, the disk being full for example; the older ones are all there.
        """
        # By way of memory, because torch turns a full disk into an error that does not say so.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
        final = self.checkpoints / f"{images:012d}-{digest[:16]}.pt"
        with atomic_path(final) as temporary:
            temporary.write_bytes(buffer.getbuffer())
        for old in self._newest_first()[KEPT:]:
            old.unlink()
        return final

    def newest_checkpoint(self) -> Path | None:
        """Return the newest whole checkpoint's file; None if there is none at all.

        Raises:
            UserError: there are checkpoints but every one is damaged.
            OSError: the one that was being written could not be.
        """
        self.wait()
        damaged: list[Path] = []
        for path in self._newest_first():
            if sha256(path)[:16] == path.stem.split("-")[1]:
                for useless in damaged:  # it would pass for one of the newest that are kept
                    useless.unlink()
                return path
            log.warning("The checkpoint %s is damaged; trying the one before it.", path)
            damaged.append(path)
        if damaged:
            raise UserError(
                f"Every checkpoint in {self.checkpoints} is damaged; delete the folder to start again."
            )
        return None

    def _newest_first(self) -> list[Path]:
        found = self.checkpoints.glob("[0-9]*-*.pt")
        return sorted((path for path in found if path.is_file()), reverse=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `RunDirectory.save_checkpoint` wrote, onto the CPU."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


@contextlib.contextmanager
def own_run(folder: str | Path, fingerprint: str) -> Iterator[RunDirectory]:
    """Be the one process that trains the run in `folder`; wait while another one does.

    State of another recipe is set aside, never resumed.

    Raises:
        UserError: nobody can tell which recipe the state is of.
    """
    run = RunDirectory(Path(folder), fingerprint)
    busy = f"The run {folder} is being trained by another process (see `gdd watch`); waiting for it."
    with locked(run.folder / "lock", lambda: log.warning(busy)):
        identity = run.state / "identity.json"
        found = read_json(identity, dict).get("fingerprint") if identity.exists() else fingerprint
        if not isinstance(found, str) or "/" in found:
            raise UserError(f"{identity} does not say of which run it is; move {run.state} away.")
        if found != fingerprint:
            aside = run.folder / f"state.{found}.{int(time.time())}"
            run.state.rename(aside)
            log.warning("The state of another recipe was set aside as %s.", aside)
        write_json(identity, {"fingerprint": fingerprint})
        for leftover in run.state.rglob(".*"):  # temporary files of a process that was killed
            leftover.unlink(missing_ok=True)
        yield run


def _on_host(tensor: Tensor) -> Tensor:
    """Return a copy on the CPU, for which nothing waits where a GPU has to make it."""
    if tensor.device.type == "cpu":
        return tensor.clone()
    pinned = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return pinned.copy_(tensor.detach(), non_blocking=True)


def _link(source: str | Path, target: str | Path) -> None:
    """Hard-link `source` to `target` in one step; copy where the file system has no hard links."""
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copy2(source, temporary)
