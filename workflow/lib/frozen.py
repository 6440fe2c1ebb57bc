"""A workflow's own copy of its configuration: its jobs make what was planned, whatever is edited since."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from gdd.errors import UserError

COPIES = Path(".snakemake/gdd")
FOLDER, EXTRA = "GDD_CONFIG", "GDD_EXTRA"  # what `gdd` goes by
KEPT = 30 * 24 * 3600  # seconds: no job waits longer for its turn after the last one of its workflow


class Frozen:
    """The configuration in `folder` and in those of `extra` as it was when this was made.

    A copy is named by its content, so that workflows of one configuration share it.
    """

    def __init__(self, folder: str, *extra: str) -> None:
        self._folders = (folder, *extra)
        self._content = _content(self._folders)

    def freeze(self) -> None:
        """Have jobs that start from now on read a copy; remove copies that nobody has used for long.

        Raises:
            UserError: the configuration has changed since.
        """
        copy = COPIES / hashlib.sha256(repr(self._content).encode()).hexdigest()[:12]
        if not copy.exists():
            if _content(self._folders) != self._content:
                raise UserError("The configuration was edited while the workflow was planned; start again.")
            COPIES.mkdir(parents=True, exist_ok=True)
            unfinished = Path(tempfile.mkdtemp(dir=COPIES, prefix="unfinished-"))
            for number, files in enumerate(self._content):
                for name, data in files.items():
                    file = unfinished / str(number) / name
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(data)
            try:
                unfinished.rename(copy)
            except OSError:  # another workflow was faster
                shutil.rmtree(unfinished)
        hand_on(*[str(copy / str(number)) for number in range(len(self._folders))])
        in_use(copy)
        for old in COPIES.iterdir():
            if old.stat().st_mtime < time.time() - KEPT:
                shutil.rmtree(old, ignore_errors=True)


def hand_on(folder: str, *extra: str) -> None:
    """Say in the environment where the configuration lies: as no option, it makes nothing again."""
    os.environ |= {FOLDER: folder, EXTRA: os.pathsep.join(extra)}


def handed_on() -> list[str]:
    """Return the folder, and extra ones, of the workflow that this process is a job of.

    Raises:
        UserError: they are gone.
    """
    folder, extra = os.environ[FOLDER], os.environ[EXTRA]
    if not Path(folder).is_dir():
        raise UserError(f"{folder}, the configuration that this job was planned with, is gone; start again.")
    in_use(Path(folder).parent)
    return [folder, *(extra.split(os.pathsep) if extra else ())]


def in_use(copy: Path) -> None:
    """Note that the copy is used."""
    if copy.parent == COPIES:
        os.utime(copy)


def _content(folders: Iterable[str]) -> list[dict[str, bytes]]:
    """Return the files of every folder by name."""
    found = []
    for folder in map(Path, folders):
        files = sorted([*folder.glob("*.yaml"), *folder.glob("*/*.yaml")])
        found.append({str(file.relative_to(folder)): file.read_bytes() for file in files})
    return found
