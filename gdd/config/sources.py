"""`config/sources.yaml`: every file that is downloaded, where it goes and what its bytes have to be."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from gdd.config.names import NAME, Name
from gdd.config.record import Count, Record

Url = Annotated[str, Field(pattern=r"^https?://[^/\s]+/\S+$")]

# `git-blob` is what `git hash-object` prints; `sha256-prefix` stands in the names of torchvision's files.
Checksum = Annotated[
    str,
    Field(
        pattern="^(sha256:[0-9a-f]{64}|sha256-prefix:[0-9a-f]{8,63}|md5:[0-9a-f]{32}|git-blob:[0-9a-f]{40})$"
    ),
]

# No part starts with a dot, so nothing leads out of the folder.
Below = Annotated[str, Field(pattern=rf"^{NAME}(/{NAME})*$")]

RESERVED = ("lock.yaml", ".part", ".part.tag")


class Source(Record):
    """One file; what its publisher does not say is null, and its SHA-256 is then trusted on first use."""

    use: str  # what it is for
    url: Url
    path: Below  # below resources/
    bytes: Count | None
    checksum: Checksum | None
    licence: str

    @model_validator(mode="after")
    def _has_a_free_name(self) -> Self:
        if self.path.endswith(RESERVED):
            raise ValueError(f"'path' must not end in {', '.join(RESERVED)}, which `gdd fetch` needs itself")
        return self


class Sources(Record):
    """`sources.yaml`: the files by name."""

    sources: dict[Name, Source]
