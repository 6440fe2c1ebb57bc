"""What happens to gradients between the backward pass and the optimizer, and how an optimizer is resumed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from gdd.training.world import World

LARGEST = 1e5  # what infinite entries become, as in the released GDD code


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
    # One sum over all tells the usual case, nothing to replace, without a pass per tensor to the host.
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
