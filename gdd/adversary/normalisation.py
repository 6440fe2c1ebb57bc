"""Batch norm and spectral norm of the heads, such that neither depends on how a batch is split."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over consecutive groups of `group` images.

    How many images a discriminator is normalised over is part of the recipe (64 in GDD's release, one GPU's
    share). A training pass over several groups is, to the bit, one pass per group, the running statistics
    included; so the number of devices does not matter. Where `span_processes` has been called, a group is
    spread over several processes, each of which passes an equal piece of it.
    """

    def __init__(self, channels: int, group: int) -> None:
        super().__init__(channels)
        self.group = group
        self.span = 1  # processes that hold one group
        self.processes: dist.ProcessGroup | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, C, H, W]; B is a multiple of the group in training, anything in eval mode."""
        if self.training and self.span > 1:
            return self._over_processes(x)
        if not self.training or len(x) == self.group:
            return super().forward(x)
        assert len(x) % self.group == 0
        return torch.cat([super(GroupedBatchNorm2d, self).forward(part) for part in x.split(self.group)])

    def _over_processes(self, x: Tensor) -> Tensor:
        """Normalise by sums that can be differentiated twice, as R1 needs; torch's `SyncBatchNorm` cannot."""
        mean = self._mean(x)
        centred = x - mean
        variance = self._mean(centred.square())
        self._track(mean.flatten(), variance.flatten(), count=x[:, 0].numel() * self.span)
        scale = self.weight[:, None, None] * (variance + self.eps).rsqrt()
        return centred * scale + self.bias[:, None, None]

    def _mean(self, x: Tensor) -> Tensor:
        return all_reduce(x.mean(dim=(0, 2, 3), keepdim=True) / self.span, group=self.processes)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.momentum is not None
        self.get_buffer("running_mean").lerp_(mean, self.momentum)
        self.get_buffer("running_var").lerp_(variance * (count / (count - 1)), self.momentum)
        self.get_buffer("num_batches_tracked").add_(1)


def span_processes(network: nn.Module, processes: dist.ProcessGroup | None, span: int) -> None:
    """Let every grouped batch norm of `network` normalise over the pieces that `span` processes hold."""
    for module in network.modules():
        if isinstance(module, GroupedBatchNorm2d):
            module.processes, module.span = processes, span


class PowerIterations:
    """Makes every spectral norm of `network` iterate once in a pass over a batch, in however many parts.

    The later parts of a pass use the singular vectors that its first part ended with. So these depend on the
    weights and on the number of passes alone, and agree in all processes.
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
    return layer.get_buffer("weight_u").clone(), layer.get_buffer("weight_v").clone()
