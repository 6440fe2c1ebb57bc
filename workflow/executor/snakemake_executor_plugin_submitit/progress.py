"""Whether a job that was started again got any further since the last time."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

_WHOLE_FILE = 1 << 20  # bytes; of larger files the size counts


def mark(path: str | None) -> str:
    """Return something that changes when the job behind `path` gets further, '' if nothing is there.

    A file counts by its content, a folder by the names and sizes of the files in it. Time stamps do not
    count: a checkpoint written a second time at the same step is no progress.
    """
    if not path:
        return ""
    place = Path(path)
    digest = hashlib.sha256()
    if place.is_file():
        files = [place]
    else:
        files = sorted(Path(folder) / name for folder, _, names in os.walk(place) for name in names)
    for file in files:
        try:
            size = file.stat().st_size
            content = file.read_bytes() if file == place and size <= _WHOLE_FILE else b""
        except OSError:  # replaced at this moment
            continue
        digest.update(f"{file}\0{size}\0".encode() + content)
    return digest.hexdigest() if files else ""


@dataclass
class Restarts:
    """How often one job was started, kept beside its pickle from one start to the next."""

    path: Path
    starts: int = 0
    stalled: int = 0  # starts in a row that found the same state as the one before
    seen: str = ""  # the state the last start found
    requeued: str = ""  # why the job last asked to be started again

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what earlier starts noted at `path`; nothing if there were none."""
        try:
            data: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            data = {}
        known = {field.name for field in fields(cls)} - {"path"}
        return cls(path, **{key: value for key, value in data.items() if key in known})

    def start(self, state: str) -> None:
        """Note a start that finds `state`."""
        if self.starts:
            self.stalled = self.stalled + 1 if state == self.seen else 0
        self.starts += 1
        self.requeued = ""
        self.seen = state
        self.write()

    def write(self) -> None:
        """Write to disk, at once or not at all."""
        data = asdict(self)
        del data["path"]
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text(json.dumps(data))
        temporary.replace(self.path)
