"""What happens to gradients between the backward pass and the optimizer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

LARGEST = 1e5  # what infinite entries become, as in the released GDD code


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
