"""Float32 weights that compute in bfloat16: the cast of many of them as one operation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

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


@contextlib.contextmanager
def cast_at_once(layers: Sequence[Weighted], dtype: torch.dtype) -> Iterator[None]:
    """Cast the weights of several layers by one operation, instead of one each; frozen ones by another."""
    cast: dict[nn.Parameter | None, Tensor] = {}
    for trained in (True, False):
        weights = [
            weight
            for layer in layers
            for weight in (layer.weight, layer.bias)
            if weight is not None and weight.dtype != dtype and weight.requires_grad == trained
        ]
        if weights:
            # In the order in which they lie in memory: channels last, or as usual.
            lying = [weight if weight.is_contiguous() else weight.permute(0, 2, 3, 1) for weight in weights]
            flat = torch.cat([weight.flatten() for weight in lying]).to(dtype)
            for weight, like, piece in zip(
                weights, lying, flat.split([one.numel() for one in lying]), strict=True
            ):
                shaped = piece.view(like.shape)
                cast[weight] = shaped if like is weight else shaped.permute(0, 3, 1, 2)
    for layer in layers:
        layer.cast = (cast[layer.weight], cast[layer.bias]) if layer.weight in cast else None
    try:
        yield
    finally:
        for layer in layers:
            layer.cast = None
