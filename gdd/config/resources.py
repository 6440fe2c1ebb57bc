"""What training and judging take of a machine. It decides no number, so it is no part of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gdd.config.recipe import Count, Positive
from gdd.config.record import Record

# Cards by their memory; a rate without a GPU is one of a processor's core.
Card = Literal["24 GB", "40 GB", "80 GB"]
CPU: Literal["cpu"] = "cpu"


class Rate(Record):
    """What one GPU, or one core, gets done in a second."""

    training: Positive  # images
    generating: Positive  # evaluations of the network, an image each
    judging: Positive  # images through the network that judges
    # Images that go through the networks together; fewer than the batch norm's group need more GPUs.
    at_once: Count | None = None
    known: Literal["measured", "reported", "estimated"]
    source: str


class Resources(Record):
    """What a run of a setting takes. The number of GPUs changes results by rounding only."""

    gpus: Annotated[int, Field(ge=0)] = 1  # 0 trains and judges on the CPU
    memory: Positive = 8.0  # GB of main memory for each process
    parameters: Positive | None = None  # millions, of the network; a snapshot has four bytes for each
    rates: dict[Literal[Card, "cpu"], Rate] = {}

    @model_validator(mode="after")
    def _says_what_each_holds(self) -> Self:
        for name, rate in self.rates.items():
            if (name == CPU) != (rate.at_once is None):
                raise ValueError(f"'rates.{name}': 'at_once' belongs to every card, and to cards only")
        return self
