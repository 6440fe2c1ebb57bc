"""Around an optimizer's step: its state, and the moving average of the weights."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn

from gdd.config.recipe import Ema

NetworkT = TypeVar("NetworkT", bound=nn.Module)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over an optimizer's state, in the memory format that its parameters have here.

    Fused kernels go through memory in its own order, so moments have to lie as their parameters do.
    """
    optimizer.load_state_dict(state)
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                moments[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def ema_decay(ema: Ema, images: int, batch: int) -> float:
    """Return the weight that the old average keeps in a step that starts after `images` images.

    The half-life is min(half_life, ramp * images) images (EDM's ramp-up), so the first step copies.
    """
    half_life = min(float(ema.half_life), ema.ramp * images)
    return 0.5 ** (batch / half_life) if half_life > 0 else 0.0


def averaged_copy(network: NetworkT) -> NetworkT:
    """Return a copy of `network` to hold the average: in eval mode, without gradients."""
    return copy.deepcopy(network).eval().requires_grad_(False)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move `average` towards `network`; frozen parameters are equal already and are left alone."""
    pairs = [
        (old, new)
        for old, new in zip(average.parameters(), network.parameters(), strict=True)
        if new.requires_grad
    ]
    torch._foreach_lerp_([old for old, _ in pairs], [new for _, new in pairs], 1 - decay)
