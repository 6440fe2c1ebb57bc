"""One stage for certain names: what it makes depends on, and what it reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gdd.errors import UserError


class Input(NamedTuple):
    """One thing that a stage reads.

    A change of a file in `watched` makes the stage's outputs again: small files that change only with the
    content, where there are such. Those in `present` have to be there, but their time stamps say nothing.
    """

    path: str
    watched: tuple[str, ...] = ()
    present: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """A stage for certain names, such as the training of one run.

    `decided_by` is the part of the configuration that decides its outputs, as plain JSON values.
    """

    title: str
    decided_by: Any
    inputs: Mapping[str, Input] = field(default_factory=dict)

    @property
    def watched(self) -> list[str]:
        return list(dict.fromkeys(file for one in self.inputs.values() for file in one.watched))

    @property
    def present(self) -> list[str]:
        return list(dict.fromkeys(file for one in self.inputs.values() for file in one.present))

    def path(self, role: str) -> Path:
        """Return where an input lies."""
        return Path(self.inputs[role].path)

    def find(self, role: str) -> Path | None:
        """Return where an input lies that the stage may not have."""
        return Path(self.inputs[role].path) if role in self.inputs else None

    def paths(self, kind: str) -> dict[str, Path]:
        """Return by their names where the inputs called `<kind> <name>` lie."""
        pairs = ((role.partition(" "), of) for role, of in self.inputs.items())
        return {name: Path(of.path) for (start, _, name), of in pairs if start == kind and name}

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that tell one configuration of the stage from another."""
        text = json.dumps(self.decided_by, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def expect(self, planned: str | None) -> None:
        """Refuse to make something else than was planned.

        Raises:
            UserError: the configuration has changed since.
        """
        if planned is not None and planned != self.hash:
            raise UserError(
                f"The configuration of {self.title} has changed since this job was planned (its hash was "
                f"{planned} and is {self.hash}); start the workflow again, which plans what to make now."
            )


def plain(record: Any, **replaced: Any) -> Any:
    """Return a record as plain JSON values, with what must not decide anything replaced."""
    return record.model_copy(update=replaced).model_dump(mode="json")


def shown(files: Iterable[str]) -> dict[str, Input]:
    """Return the files that a table, figure or page is made of as one input."""
    return {"shown": Input("results", tuple(dict.fromkeys(files)))}
