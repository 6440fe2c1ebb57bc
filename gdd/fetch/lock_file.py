"""`resources/lock.yaml`: the SHA-256 of every file that was fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field

from gdd.config.record import Record, parse, read_yaml
from gdd.fetch.exclusive import exclusive
from gdd.files import write_text

NAME = "lock.yaml"

HEADER = """\
# Written by `gdd fetch`. A file whose publisher gives no checksum is trusted the first time, and has to have
# the SHA-256 written here ever after. To accept another, delete the file and its lines here, and fetch again.
"""


class Entry(Record):
    """What a file was when it was last read from end to end."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    checksum: str | None  # the published one it agreed with; null: trusted on first use
    bytes: Annotated[int, Field(ge=0)]
    mtime_ns: int  # with the size, tells whether it has to be read again


class Lock(Record):
    """The entries by path below the folder."""

    files: dict[str, Entry] = {}


def read_lock(resources: Path) -> dict[str, Entry]:
    """Return the entries by path below `resources`; none if nothing has been fetched yet.

    Raises:
        UserError: the file is broken.
    """
    path = resources / NAME
    # An empty file is one that another process has just made to hold it.
    return parse(Lock, read_yaml(path) or {}, path).files if path.exists() else {}


def record(resources: Path, path: str, entry: Entry) -> None:
    """Add or replace one entry, whatever other processes add at the same time."""
    with exclusive(resources / NAME):
        files = {**read_lock(resources), path: entry}
        plain = {"files": {key: files[key].model_dump() for key in sorted(files)}}
        write_text(resources / NAME, HEADER + yaml.safe_dump(plain))
