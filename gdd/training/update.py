"""Around an optimizer's step: gradients before it, the moving average of the weights after it."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import nn

from gdd.config.recipe import Ema
from gdd.training.world import World

LARGEST = 1e5  # what infinite entries become, as in the released GDD code

NetworkT = TypeVar("NetworkT", bound=nn.Module)


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter], world: World) -> None:
    """Sum the gradients of every process's share of a batch; what takes no gradient costs nothing."""
    world.all_reduce([parameter.grad for parameter in parameters if parameter.grad is not None])


@torch.no_grad()
def replace_nonfinite(parameters: Iterable[nn.Parameter]) -> int:
    """Replace NaN by 0 and +-inf by +-1e5 in every gradient; return how many entries that were."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return 0
    # The norms tell the usual case, nothing to replace, without a copy to the host per tensor.
    norms = torch.stack(torch._foreach_norm(gradients))
    if torch.isfinite(norms).all():
        return 0
    replaced = sum(int((~torch.isfinite(gradient)).sum()) for gradient in gradients)
    for gradient in gradients:
        torch.nan_to_num_(gradient, nan=0.0, posinf=LARGEST, neginf=-LARGEST)
    return replaced


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
