"""How a run is executed on the machine at hand; what decides the weights is the recipe's alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from gdd.training.world import World


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Choices that belong to a machine; another choice gives the same weights up to rounding.

    Args:
        device: `auto` is a GPU wherever there is one.
        images_at_once: that go through the networks together on one device, a multiple of the recipe's
            batch norm group; the rest of a device's share follows. None finds the most that fit into a GPU's
            memory, and is one group on a CPU.
        channels_last: the memory format of images and weights; None is yes on a GPU.
        tf32: let a GPU round the factors of float32 products to 10 bits. The papers' runs do not.
        patience: steps in a row with a NaN or infinite loss after which a run ends.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    images_at_once: int | None = None
    channels_last: bool | None = None
    tf32: bool = False
    patience: int = 500

    def memory_format(self, device: torch.device) -> torch.memory_format:
        """Return the memory format of images and weights."""
        wanted = device.type == "cuda" if self.channels_last is None else self.channels_last
        return torch.channels_last if wanted else torch.contiguous_format

    def set_up(self, device: torch.device) -> None:
        """Set what is set for a whole process."""
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = self.tf32
            torch.backends.cudnn.allow_tf32 = self.tf32

    def describe(self, world: World) -> dict[str, Any]:
        """Return what a run's record says of it, as plain JSON values."""
        facts: dict[str, Any] = {"processes": world.size}
        if world.device.type == "cuda":
            facts["device"] = torch.cuda.get_device_name(world.device)
            facts["tf32"] = self.tf32
            facts["channels_last"] = self.memory_format(world.device) == torch.channels_last
        return facts


PLAIN = Execution()
