"""`config/local.yaml`: facts about this machine. They never change a number."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from gdd.config.names import ExternalName, Name, RawDataName, SettingName
from gdd.config.record import Count, NotNegative, Positive, Record
from gdd.errors import UserError

CPU: Literal["cpu"] = "cpu"  # a rate without a GPU is one of a processor's core
USUAL_GB = 80  # of a GPU of which nobody says or measured anything

Word = Annotated[str, Field(pattern="^[!-~]+$")]  # no space and no control character: it is given to sbatch


# A web address, file: with an absolute path, or a path.
def _check_address(text: str) -> str:
    try:
        _ = urlsplit(text).port
    except ValueError:  # which quotes a part of it, maybe of a password
        message = "this is no address; write '/', '?', '#' and '@' of a password as %2F, %3F, %23 and %40"
        raise ValueError(message) from None
    return text


Mirror = Annotated[str, Field(pattern=r"^(https?://|file:(//)?/[^/]|[/~])"), AfterValidator(_check_address)]


def _card(value: Any) -> Any:
    """Return the number in "80 GB"; anything else stays as it is."""
    found = re.fullmatch(r"(\d+) *GB", value) if isinstance(value, str) else None
    return int(found[1]) if found else value


# A GPU by its memory in GB, or by what `gdd probe` calls it.
Card = Annotated[Count | Name, BeforeValidator(_card)]


class Local(Record):
    """Where things lie on this machine; every key may be left out."""

    raw_data: dict[RawDataName, str] = {}  # folder or archive you downloaded yourself
    external: dict[ExternalName, dict[SettingName, str]] = {}  # what you downloaded of others' work
    mirrors: dict[str, Mirror] = {}  # URL prefix -> prefix to fetch from instead
    offline: bool = False
    # Node-local folder to which image arrays are copied first. What a variable stands for, the machine that
    # trains knows.
    scratch: Annotated[str, Field(pattern="^[/~$]")] | None = None
    gpus: NotNegative | None = None  # for a run; None is what its setting says, 0 is the CPU
    evaluation_gpus: Count | None = None  # for an evaluation; None is what its setting says
    nodes: Count = 1  # machines that a run's GPUs are spread over evenly, with SLURM
    card: Card | None = None  # None is the one that was probed last, or one of 80 GB
    longest_job: Positive = 24.0  # hours; what takes longer goes on in the next job
    tf32: bool = False  # let GPUs round the factors of float32 products to 10 bits in training
    cuda_graphs: bool | None = (
        None  # let GPUs train without waiting for the CPU; None is what `gdd probe` found
    )
    partition: Word | None = None  # for jobs with a GPU, and for all others where no `cpu_partition` is given
    cpu_partition: Word | None = None
    account: Word | None = None
    gpu_model: Word | None = None  # by the name that the cluster has for it

    @model_validator(mode="after")
    def _spreads_evenly(self) -> Self:
        if self.nodes > 1 and (self.gpus is None or self.gpus == 0 or self.gpus % self.nodes):
            raise ValueError(f"'nodes' is {self.nodes}, so 'gpus' has to be a multiple of it")
        return self

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
