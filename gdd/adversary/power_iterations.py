"""One power iteration of every spectral norm per pass over a batch, in however many parts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn


class PowerIterations:
    """Makes the passes of one optimizer step iterate with their first part only.

    The singular vectors that the first part of a pass ends with belong to that pass: its later parts use them
    as they are. So they are functions of the weights and of the number of passes alone, and agree in all
    processes.
    """

    def __init__(self, network: nn.Module) -> None:
        self.layers = [module for module in network.modules() if hasattr(module, "weight_u")]
        self._vectors: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._many = False

    def begin(self, parts: int) -> None:
        """Begin an optimizer step whose passes are worked through in so many parts."""
        self._vectors.clear()
        self._many = parts > 1

    @contextlib.contextmanager
    def of_pass(self, name: str) -> Iterator[None]:
        """Enter the next part of the pass `name`."""
        if not self._many:
            yield
        elif name not in self._vectors:
            yield
            # Copies, because the next pass iterates in place.
            self._vectors[name] = [_vectors(layer) for layer in self.layers]
        else:
            for layer, (u, v) in zip(self.layers, self._vectors[name], strict=True):
                # Other tensors in their place, because the backward pass still needs the old ones unchanged.
                layer.weight_u, layer.weight_v = u, v
                layer.training = False  # to a convolution's spectral norm: no iteration
            yield
            for layer in self.layers:
                layer.training = True


def _vectors(layer: nn.Module) -> tuple[Tensor, Tensor]:
    u, v = layer.get_buffer("weight_u"), layer.get_buffer("weight_v")
    return u.clone(), v.clone()
