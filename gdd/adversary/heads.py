"""The trained part of the discriminator: one small network per tap (StyleGAN-XL's use of Projected GAN).

Its batch norms and spectral norms do not depend on how a batch is split over passes or processes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional

from gdd.adversary.published_weights import EMBEDDING_WIDTH
from gdd.adversary.spectral_norm import spectral_norm
from gdd.config.recipe import Heads

# Channels by nominal size, for 64 channels (Projected GAN's multi-scale discriminator).
CHANNELS_BY_SIZE = {128: 64, 64: 64, 32: 128, 16: 256, 8: 512, 4: 512}
CLASS_CHANNELS = 64


class Head(nn.Module):
    """Blocks, then one spectral-norm convolution without padding or bias to logits.

    Class-conditional, that convolution gives 64 channels instead, and a logit is their product with the
    class's projected embedding (a projection discriminator, arXiv:1802.05637). In training mode every pass
    makes one power iteration of every spectral norm, however many images it holds.

    `channels` are those of the blocks' output. `label_dim` 0 is unconditional; `embedding` [rows >=
    label_dim, width] starts the classes' embedding, None starts it at random.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        channels: int,
        kernel: int,
        label_dim: int,
        embedding: Tensor | None,
    ) -> None:
        super().__init__()
        self.label_dim = label_dim
        if label_dim == 0:
            self.main = nn.Sequential(*blocks, spectral_norm(nn.Conv2d(channels, 1, kernel, bias=False)))
            return
        width = EMBEDDING_WIDTH if embedding is None else embedding.shape[1]
        self.main = nn.Sequential(*blocks)
        self.cls = spectral_norm(nn.Conv2d(channels, CLASS_CHANNELS, kernel, bias=False))
        self.embed = nn.Embedding(label_dim, width)
        if embedding is not None:
            with torch.no_grad():
                self.embed.weight.copy_(embedding[:label_dim])
        self.embed_proj = EqualisedLinear(width, CLASS_CHANNELS)

    def forward(self, features: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Return logits [B, n] for projected features [B, C, H, W] and one-hot labels [B, label_dim]."""
        x = self.main(features)
        if self.label_dim:
            assert class_labels is not None
            embedded = self.embed_proj(self.embed(class_labels.argmax(1)))
            x = (self.cls(x) * embedded[:, :, None, None]).sum(1) / math.sqrt(CLASS_CHANNELS)
        return x.flatten(1)


def downsampling_head(
    recipe: Heads,
    in_channels: int,
    start_size: int,
    end_size: int,
    label_dim: int = 0,
    embedding: Tensor | None = None,
) -> Head:
    """Return a head that halves features by 4x4 convolutions of stride 2.

    The nominal sizes of its input and output fix the number of halvings and the channels, of which there are
    as many as published for `channels: 64`, and in proportion for other values.
    """
    sizes = [size for size in CHANNELS_BY_SIZE if end_size <= size < start_size]
    channels = [in_channels, *(CHANNELS_BY_SIZE[size] * recipe.channels // 64 for size in sizes)]
    kernel = 4 if end_size >= 8 else end_size // 2
    pairs = itertools.pairwise(channels)
    blocks = [_Downsampling(inputs, outputs, recipe.norm_group) for inputs, outputs in pairs]
    return Head(blocks, channels[-1], kernel, label_dim, embedding)


class _Downsampling(nn.Module):
    def __init__(self, inputs: int, outputs: int, group: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            spectral_norm(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)),
            GroupedBatchNorm2d(outputs, group),
            nn.LeakyReLU(0.2, inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


def local_head(recipe: Heads, in_channels: int, label_dim: int = 0, embedding: Tensor | None = None) -> Head:
    """Return a head of two 3x3 convolutions at the features' resolution, for images too tiny to halve."""
    channels = recipe.channels
    blocks: list[nn.Module] = []
    for inputs in (in_channels, channels):
        # No bias: batch norm would take it out again.
        convolution = nn.Conv2d(inputs, channels, 3, padding=1, bias=False)
        norm = GroupedBatchNorm2d(channels, recipe.norm_group)
        blocks += [spectral_norm(convolution), norm, nn.LeakyReLU(0.2, inplace=True)]
    return Head(blocks, channels, 1, label_dim, embedding)


class EqualisedLinear(nn.Module):
    """A linear layer with equalised learning rate, then leaky ReLU of gain sqrt(2) (arXiv:1710.10196)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs] to [B, outputs]."""
        x = functional.linear(x, self.weight / math.sqrt(self.weight.shape[1]), self.bias)
        return functional.leaky_relu(x, 0.2) * math.sqrt(2)


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over consecutive groups of `group` images.

    How many images a discriminator is normalised over is part of the recipe (64 in GDD's release, one GPU's
    share). A training pass over several groups is, to the bit, one pass per group, the running statistics
    included; so the number of devices does not matter. Where `span_processes` has been called, a group is
    spread over several processes, each of which passes an equal piece of it. Batches are not counted: only
    running statistics without momentum would ask for that.
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
            return self._normalise(x)
        assert len(x) % self.group == 0
        return torch.cat([self._normalise(part) for part in x.split(self.group)])

    def _normalise(self, x: Tensor) -> Tensor:
        assert self.momentum is not None
        statistics = self.running_mean, self.running_var
        return functional.batch_norm(
            x, *statistics, self.weight, self.bias, self.training, self.momentum, self.eps
        )

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


def span_processes(network: nn.Module, processes: dist.ProcessGroup | None, span: int) -> None:
    """Let every grouped batch norm of `network` normalise over the pieces that `span` processes hold."""
    for module in network.modules():
        if isinstance(module, GroupedBatchNorm2d):
            module.processes, module.span = processes, span
