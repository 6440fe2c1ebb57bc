"""What others published, to be judged like the runs of a setting."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gdd.config.recipe import Count
from gdd.config.record import Record


class ExternalFile(Record):
    """A generator, or images of one, for one setting."""

    published: str | None = None  # a file of sources.yaml; None is a file that the user provides
    where: str = ""  # where the user finds it, told where it is missing


class External(Record):
    """One method's published generators, or images made by them, by the setting that judges each."""

    title: str
    # generator: a pickle as EDM, GDD and SiD publish them (nothing in it is run), or weights of this project.
    # images: an .npz, a folder, a .zip or a .tar.
    holds: Literal["generator", "images"]
    settings: Annotated[dict[str, ExternalFile], Field(min_length=1)]
    key: str = "ema"  # where in a pickle the network stands
    evaluations: Count | None = None  # of a network for an image, which images do not say
    licence: str

    @model_validator(mode="after")
    def _says_what_nobody_else_does(self) -> Self:
        if self.holds == "generator" and self.evaluations is not None:
            raise ValueError("'evaluations' belongs to images; a generator's file says it itself")
        return self
