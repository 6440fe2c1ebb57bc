"""Batch norm whose statistics belong to a fixed number of images, not to whatever one pass holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gdd.errors import UserError


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over consecutive groups of `group` images.

    How many images a discriminator is normalised over is part of the recipe (64 in GDD's release, one GPU's
    share). With the group fixed, a pass over several groups normalises as several passes over one group each
    would, to the bit, the running statistics included; so the number of devices does not matter.

    Args:
        channels: of the input.
        group: images per group; the batches of training passes are multiples of it.
    """

    def __init__(self, channels: int, group: int) -> None:
        super().__init__(channels)
        if group < 1:
            raise UserError(f"Batch norm needs groups of at least one image; got {group}.")
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, C, H, W]; in eval mode by the running statistics, for any B.

        Raises:
            UserError: in training mode, when B is not a multiple of the group.
        """
        if not self.training or len(x) == self.group:
            return super().forward(x)
        if len(x) % self.group:
            raise UserError(
                f"The discriminator normalises over groups of {self.group} images, "
                f"but got {len(x)}; use a batch that is a multiple of the group."
            )
        parts = [super(GroupedBatchNorm2d, self).forward(part) for part in x.split(self.group)]
        return torch.cat(parts)

    def extra_repr(self) -> str:
        """Show the group in the module's printed form."""
        return f"{super().extra_repr()}, group={self.group}"
