"""A run's folder: one owner at a time, checkpoints, and resumable state apart from what is published."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from gdd.errors import UserError
from gdd.files import atomic_path, locked, read_json, sha256, write_json

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
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> Self:
        def waiting() -> None:
            log.warning("The run %s is being trained by another process; waiting for it.", self.folder)

        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder / "lock", patience=self.patience, waiting=waiting))
            except TimeoutError:
                raise UserError(
                    f"The run {self.folder} is being trained by another process (see `gdd watch`); end that "
                    "one first."
                ) from None
            self._take_over_state()
            self._lock = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

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

    def _take_over_state(self) -> None:
        identity = self.state / "identity.json"
        if identity.exists():
            found = read_json(identity).get("fingerprint", "unknown")
            if found != self.fingerprint:
                aside = self.folder / f"state.{found}.{int(time.time())}"
                self.state.rename(aside)
                log.warning("The state of another recipe was set aside as %s.", aside)
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


class CheckpointStore:
    """The newest checkpoints of a run, named `<images>-<hash of the file>.pt`.

    The hash in the name tells a damaged file from a whole one, whatever damaged it.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, images: int, payload: dict[str, Any]) -> Path:
        """Write a checkpoint, then remove all but the newest `keep`.

        Raises:
            OSError: it cannot be written, the disk being full for example; the older ones are all there.
        """
        # By way of memory, because torch turns a full disk into an error that does not say so.
        buffer = io.BytesIO()
        torch.save(payload, buffer)
        digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
        final = self.folder / f"{images:012d}-{digest[:16]}.pt"
        with atomic_path(final) as temporary:
            temporary.write_bytes(buffer.getbuffer())
        for old in self._newest_first()[self.keep :]:
            old.unlink()
        return final

    def newest(self) -> Path | None:
        """Return the newest whole checkpoint's file; None if there is none at all.

        Raises:
            UserError: there are checkpoints but every one is damaged.
        """
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
                f"Every checkpoint in {self.folder} is damaged; delete the folder to start again."
            )
        return None

    def clear(self) -> None:
        """Remove every checkpoint."""
        for path in self.folder.glob("*"):
            path.unlink()

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*-*.pt"), reverse=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `CheckpointStore.save` wrote, onto the CPU."""
    payload: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return payload


def all_finite(value: Any) -> bool:
    """Return whether every tensor in nested dictionaries and lists is free of NaN and infinity."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return all(all_finite(inner) for inner in value.values())
    if isinstance(value, list | tuple):
        return all(all_finite(inner) for inner in value)
    return True
