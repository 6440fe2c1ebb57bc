"""Group normalisation, and SiLU after it where a network has one there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

from gdd.networks.casting import Weighted


class GroupNorm(Weighted):
    """Group normalisation into groups of at least 4 channels, at most 32 groups; then SiLU, if `silu`.

    PyTorch's kernels take mean and variance in float32 whatever the dtype of the activations.
    """

    fused: ClassVar[bool] = False  # whether GPUs use our own kernels, which nobody has measured on one yet

    def __init__(self, channels: int, eps: float, *, silu: bool = False) -> None:
        super().__init__()
        self.groups = min(32, channels // 4)
        self.eps = eps
        self.silu = silu
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weights(x.dtype)
        if self.fused and _suits(x):
            from gdd.networks.group_norm_kernels import FusedGroupNorm  # a torch for the CPU has no Triton

            return FusedGroupNorm.apply(x, weight, bias, self.groups, self.eps, self.silu)
        x = functional.group_norm(x, self.groups, weight, bias, self.eps)
        return functional.silu(x) if self.silu else x


def _suits(x: Tensor) -> bool:
    """Whether our kernels take these images: on a GPU, in `channels_last`, and not in forward mode."""
    return (
        x.is_cuda
        and x.dtype in (torch.bfloat16, torch.float32)
        and x.is_contiguous(memory_format=torch.channels_last)
        and forward_ad.unpack_dual(x).tangent is None
    )


@contextlib.contextmanager
def fused_group_norms(on: bool) -> Iterator[None]:
    """Let GPUs normalise by our own kernels, or not."""
    before, GroupNorm.fused = GroupNorm.fused, on
    try:
        yield
    finally:
        GroupNorm.fused = before
