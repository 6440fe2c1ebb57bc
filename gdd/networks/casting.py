"""Float32 weights that compute in bfloat16: the cast of many of them as one operation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Weighted(nn.Module):
    """A layer whose weight and bias compute in another dtype than they are kept in."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    cast: tuple[Tensor, Tensor] | None = None  # in `cast_at_once`

    def weights(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return weight and bias in a dtype."""
        assert self.weight is not None
        assert self.bias is not None
        return self.cast or (self.weight.to(dtype), self.bias.to(dtype))


class _Cast(torch.autograd.Function):
    """Copies of tensors in another dtype, by one operation; their gradients come back by another."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = tensors[0].dtype
        return _copies(tensors, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_copies(gradients, ctx.dtype)


def _copies(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    copies = tuple(torch.empty_like(tensor, dtype=dtype) for tensor in tensors)
    torch._foreach_copy_(copies, list(tensors))
    return copies


@contextlib.contextmanager
def cast_at_once(network: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Cast the weights of all layers of a network by one operation; frozen ones by another."""
    layers = [module for module in network.modules() if isinstance(module, Weighted)]
    cast: dict[nn.Parameter | None, Tensor] = {}
    for trained in (True, False):
        weights = [
            weight
            for layer in layers
            for weight in (layer.weight, layer.bias)
            if weight is not None and weight.dtype != dtype and weight.requires_grad == trained
        ]
        if weights:
            cast |= zip(weights, _Cast.apply(dtype, *weights), strict=True)
    for layer in layers:
        layer.cast = (cast[layer.weight], cast[layer.bias]) if layer.weight in cast else None
    try:
        yield
    finally:
        for layer in layers:
            layer.cast = None
