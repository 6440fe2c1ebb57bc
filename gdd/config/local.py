"""`config/local.yaml`: facts about this machine. They never change a number."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from gdd.config.record import Record, parse, read_yaml
from gdd.errors import UserError


def _place(value: str) -> str:
    scheme, colon, _ = value.partition(":")
    if colon and scheme.isalpha() and len(scheme) > 1 and scheme not in ("http", "https", "file"):
        raise ValueError("a mirror is an http(s) URL, file: or a path")
    return value


class Local(Record):
    """Where things lie on this machine; every key may be left out."""

    raw_data: dict[str, str] = {}  # data set -> folder or archive you downloaded yourself
    mirrors: dict[
        str, Annotated[str, AfterValidator(_place)]
    ] = {}  # URL prefix -> prefix to fetch from instead
    offline: bool = False
    scratch: str | None = None  # node-local folder to which image arrays are copied first; $VARIABLES count
    partition: str | None = None  # of SLURM; SBATCH_PARTITION in the environment wins
    account: str | None = None  # of SLURM; SBATCH_ACCOUNT in the environment wins

    def scratch_folder(self) -> Path | None:
        """Return the node-local folder, with `~` and the variables of this process filled in.

        Raises:
            UserError: it is no absolute path then.
        """
        if self.scratch is None:
            return None
        path = Path(os.path.expandvars(self.scratch)).expanduser()
        if not path.is_absolute():
            raise UserError(
                f"local.yaml: 'scratch' is {self.scratch!r}, here {str(path)!r}; give an absolute path."
            )
        return path


def load_local(folder: Path) -> Local:
    """Read `local.yaml` in `folder`; without one, or with an empty one, nothing is known of this machine."""
    path = folder / "local.yaml"
    data = read_yaml(path) if path.exists() else None
    return Local() if data is None else parse(Local, data, path)
