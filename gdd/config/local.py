"""`config/local.yaml`: facts about this machine. They never change a number."""

from __future__ import annotations

from pathlib import Path

from gdd.config.record import Record, parse, read_yaml


class Local(Record):
    """Where things lie on this machine; every key may be left out."""

    raw_data: dict[str, str] = {}  # data set -> folder or archive you downloaded yourself
    mirrors: dict[str, str] = {}  # URL prefix -> prefix to fetch from instead
    offline: bool = False
    scratch: str | None = None  # node-local folder to which image arrays are copied first
    partition: str | None = None
    account: str | None = None


def load_local(folder: Path) -> Local:
    """Read `local.yaml` in `folder`; without one, nothing is known about this machine."""
    path = folder / "local.yaml"
    return parse(Local, read_yaml(path) or {}, path) if path.exists() else Local()
