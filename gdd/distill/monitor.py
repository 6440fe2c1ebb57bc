"""What `distill` asks of whoever measures the generator while it is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from gdd.data.image_array import ImageArray
from gdd.networks.preconditioning import OneStepGenerator


class GeneratorMonitor(Protocol):
    """Numbers of the average, which change nothing of the run. The main process alone asks for them.

    Attributes:
        every: images between two measurements; None is the snapshots' interval.
    """

    every: int | None

    def open(self, data: ImageArray, device: torch.device) -> dict[str, Any]:
        """Get ready before the training begins; return what the run's record says, as plain JSON values.

        Raises:
            UserError: a file is missing, or does not fit the data.
        """
        ...

    def measure(
        self, generator: OneStepGenerator, interrupted: Callable[[], bool]
    ) -> dict[str, float] | None:
        """Return numbers by name; None once `interrupted` has said so."""
        ...
