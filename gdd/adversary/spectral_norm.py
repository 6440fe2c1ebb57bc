"""Spectral norm (arXiv:1802.05957) of many convolutions at once.

A layer keeps what PyTorch's `spectral_norm` does, by the same names: `weight_orig`, `weight_u`, `weight_v`.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gdd.networks.layers import one_by_one

EPS = 1e-12


def spectral_norm(layer: nn.Conv2d) -> nn.Conv2d:
    """Let a convolution compute with its weight over the largest singular value, by power iterations.

    Its weight is a matrix with a row an output. In training mode every pass makes one iteration: by the layer
    itself, or by `PowerIterations` for many at once.
    """
    normed: Any = nn.utils.spectral_norm(layer, eps=EPS)
    normed._forward_pre_hooks.clear()
    normed.register_forward_pre_hook(_by_itself)
    normed.prepared = False  # whether its weight is that of the pass it is in
    return layer


def _by_itself(layer: Any, _: object) -> None:
    if not layer.prepared:
        alike = _Alike([layer])
        matrices = alike.matrices()
        alike.prepare(matrices, alike.iterate(matrices) if layer.training else (alike.u(), alike.v()))


class PowerIterations:
    """Makes every spectral norm of `network` iterate once in a pass over a batch, in however many parts.

    The later parts of a pass use the singular vectors that its first part ended with. So these depend on the
    weights and on the number of passes alone, and agree in all processes.
    """

    def __init__(self, network: nn.Module) -> None:
        layers: list[Any] = [module for module in network.modules() if hasattr(module, "weight_u")]
        groups: dict[Any, list[Any]] = defaultdict(list)
        for index, layer in enumerate(layers):
            alone = index if one_by_one(layer.weight_orig.device) else None
            groups[layer.weight_orig.shape, alone].append(layer)
        self.groups = [_Alike(alike) for alike in groups.values()]
        self._vectors: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def begin(self) -> None:
        """Begin an optimizer step."""
        self._vectors.clear()

    @contextlib.contextmanager
    def of_pass(self, name: str) -> Iterator[None]:
        """Enter the next part of the pass `name`."""
        matrices = [alike.matrices() for alike in self.groups]
        if name not in self._vectors:
            pairs = zip(self.groups, matrices, strict=True)
            self._vectors[name] = [alike.iterate(of_alike) for alike, of_alike in pairs]
        layers = [layer for alike in self.groups for layer in alike.layers]
        for alike, of_alike, vectors in zip(self.groups, matrices, self._vectors[name], strict=True):
            alike.prepare(of_alike, vectors)
        for layer in layers:
            layer.prepared = True
        try:
            yield
        finally:
            for layer in layers:
                layer.prepared = False
                layer.weight = None  # with whatever it was computed from


class _Alike:
    """Layers of one shape, whose matrices are multiplied together."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = layers
        first = layers[0].weight_orig
        # In the order in which they lie in memory, so that nothing has to be copied into another one.
        inner = not first.is_contiguous() and first.is_contiguous(memory_format=torch.channels_last)
        self.to, self.back = ((0, 2, 3, 1), (0, 3, 1, 2)) if inner else ((0, 1, 2, 3), (0, 1, 2, 3))
        self.shape = first.permute(self.to).shape

    def matrices(self) -> Tensor:
        """Return the weights, [k, rows, columns]."""
        matrices = [layer.weight_orig.permute(self.to).flatten(1) for layer in self.layers]
        return matrices[0][None] if len(matrices) == 1 else torch.stack(matrices)

    def u(self) -> Tensor:
        """Return the left singular vectors at present, [k, rows]."""
        return torch.stack([layer.weight_u for layer in self.layers])

    def v(self) -> Tensor:
        """Return the right ones, [k, columns]."""
        v = torch.stack([layer.weight_v for layer in self.layers])
        return v.view(-1, *self.layers[0].weight_orig.shape[1:]).permute(self.to).flatten(1)

    @torch.no_grad()
    def iterate(self, matrices: Tensor) -> tuple[Tensor, Tensor]:
        """Make a power iteration; return the singular vectors, which later ones do not change."""
        v = functional.normalize(_times(matrices.mT, self.u()), dim=1, eps=EPS)
        u = functional.normalize(_times(matrices, v), dim=1, eps=EPS)
        in_order = v.view(-1, *self.shape[1:]).permute(self.back).flatten(1)
        kept = [layer.weight_u for layer in self.layers] + [layer.weight_v for layer in self.layers]
        torch._foreach_copy_(kept, [*u.unbind(), *in_order.unbind()])
        return u, v

    def prepare(self, matrices: Tensor, vectors: tuple[Tensor, Tensor]) -> None:
        """Give every layer its weight over the singular value that goes with the vectors."""
        u, v = vectors
        product = _times(matrices, v)
        if len(self.layers) == 1:  # in PyTorch's order, backwards too
            self.layers[0].weight = self.layers[0].weight_orig / torch.dot(u[0], product[0])
            return
        weights = matrices / (u * product).sum(1)[:, None, None]
        for layer, weight in zip(self.layers, weights.unbind(), strict=True):
            layer.weight = weight.view(self.shape).permute(self.back)


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Return the product of each of the matrices [k, m, n] with its vector [n]."""
    if len(matrices) == 1:
        return torch.mv(matrices[0], vectors[0])[None]
    return torch.bmm(matrices, vectors[:, :, None]).squeeze(2)
