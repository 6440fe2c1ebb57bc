"""Resumable state on disk: whole or not there, and known to be whole when it is read."""

from __future__ import annotations

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gdd.errors import UserError
from gdd.files import atomic_path, sha256

log = logging.getLogger(__name__)


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

    def load_latest(self) -> dict[str, Any] | None:
        """Return the newest whole checkpoint, on the CPU; None if there is none at all.

        Raises:
            UserError: there are checkpoints but every one is damaged.
        """
        newest = self.newest()
        return None if newest is None else load(newest)

    def newest(self) -> Path | None:
        """Return the newest whole checkpoint's file; None if there is none at all.

        Raises:
            UserError: there are checkpoints but every one is damaged.
        """
        damaged: list[Path] = []
        for path in self._newest_first():
            if sha256(path)[:16] != path.stem.split("-")[1]:
                log.warning("The checkpoint %s is damaged; trying the one before it.", path)
                damaged.append(path)
                continue
            for useless in damaged:  # it would pass for one of the newest that are kept
                useless.unlink()
            return path
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


def load(path: Path) -> dict[str, Any]:
    """Read what `CheckpointStore.save` wrote, onto the CPU."""
    payload: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return payload


def all_finite(value: Any) -> bool:
    """Return whether every tensor in nested dictionaries and lists holds numbers alone."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return all(all_finite(inner) for inner in value.values())
    if isinstance(value, list | tuple):
        return all(all_finite(inner) for inner in value)
    return True
