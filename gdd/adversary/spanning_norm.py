"""Batch norm over a group of images that several processes hold together."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gdd.adversary.batch_norm import GroupedBatchNorm2d


class SpanningBatchNorm2d(nn.BatchNorm2d):
    """Normalises over the images of all processes of a group, each of which passes an equal piece of them.

    The sum over the processes can be differentiated twice, as R1 needs it; torch's own synchronised batch
    norm cannot, and knows GPUs only.

    Args:
        norm: the batch norm whose parameters and statistics are taken over.
        processes: that hold one group together; None is this process alone.
        span: their number.
    """

    def __init__(self, norm: nn.BatchNorm2d, processes: dist.ProcessGroup | None, span: int) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.weight, self.bias = norm.weight, norm.bias
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)
        self.register_buffer("num_batches_tracked", norm.num_batches_tracked)
        self.processes = processes
        self.span = span

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, C, H, W], this process's piece of a group."""
        if not self.training:
            return super().forward(x)
        mean = self._mean(x)
        centred = x - mean
        variance = self._mean(centred.square())
        self._track(mean.detach().flatten(), variance.detach().flatten(), x.numel() // x.shape[1] * self.span)
        scale = self.weight[:, None, None] * (variance + self.eps).rsqrt()
        return centred * scale + self.bias[:, None, None]

    def _mean(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(0, 2, 3), keepdim=True) / self.span
        if self.span == 1:
            return mean
        from torch.distributed.nn.functional import all_reduce

        return all_reduce(mean, group=self.processes)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        momentum = self.momentum or 0.0
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), momentum)
        self.num_batches_tracked.add_(1)


def span_processes(network: nn.Module, processes: dist.ProcessGroup | None, span: int) -> None:
    """Let every grouped batch norm of `network` normalise over the pieces that `span` processes hold."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, GroupedBatchNorm2d):
                setattr(parent, name, SpanningBatchNorm2d(child, processes, span).train(child.training))
