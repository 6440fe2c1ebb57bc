"""From a network's range to the bytes that metrics are computed on."""

from __future__ import annotations

import torch
from torch import Tensor

from gdd.errors import DivergedError


def quantise(images: Tensor) -> Tensor:
    """Turn images [B, C, H, W] in [-1, 1] into uint8 [B, H, W, C]: clip(127.5 x + 128, 0, 255), truncated.

    This is EDM's rounding (arXiv:2206.00364, published code). The also common (x + 1) 127.5 is half a grey
    level darker, which shifts the Frechet distance.

    Raises:
        DivergedError: an image holds NaN or infinity.
    """
    if not torch.isfinite(images).all():
        broken = int((~torch.isfinite(images)).flatten(1).any(dim=1).sum())
        raise DivergedError(
            f"{broken} of {len(images)} generated images hold NaN or infinity: "
            "the network has diverged; go back to an earlier snapshot or lower the learning rate."
        )
    # Half precision cannot represent 127.5 x + 128 to the grey level.
    wide = images if images.dtype == torch.float64 else images.to(torch.float32)
    return (wide * 127.5 + 128).clip(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
