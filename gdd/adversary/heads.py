"""The trained part of the discriminator: one small network per tap (StyleGAN-XL's use of Projected GAN)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import spectral_norm

from gdd.adversary.normalisation import GroupedBatchNorm2d
from gdd.errors import UserError
from gdd.randomness import seeded_weights

# Channels by nominal size, for head_channels = 64 (Projected GAN's multi-scale discriminator).
CHANNELS_BY_SIZE = {128: 64, 64: 64, 32: 128, 16: 256, 8: 512, 4: 512}
CLASS_CHANNELS = 64
EMBEDDING_CHANNELS = 320  # EfficientNet-lite0's last stage, whose class means StyleGAN-XL starts from


class Head(nn.Module):
    """Blocks, then one spectral-norm convolution without padding or bias to logits.

    Class-conditional, that convolution gives 64 channels instead, and a logit is their product with the
    class's projected embedding (a projection discriminator, arXiv:1802.05637). In training mode every pass
    makes one power iteration of every spectral norm, however many images it holds.

    Args:
        blocks: what comes before the last convolution.
        channels: that the blocks give.
        kernel: size of the last convolution.
        label_dim: number of classes; 0 is unconditional.
        embedding: [rows >= label_dim, width] to start the classes' embedding from; None starts it at random.
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
        width = EMBEDDING_CHANNELS if embedding is None else embedding.shape[1]
        self.main = nn.Sequential(*blocks)
        self.cls = spectral_norm(nn.Conv2d(channels, CLASS_CHANNELS, kernel, bias=False))
        self.embed = nn.Embedding(label_dim, width)
        if embedding is not None:
            with torch.no_grad():
                self.embed.weight.copy_(embedding[:label_dim])
        self.embed_proj = EqualisedLinear(width, CLASS_CHANNELS)

    def forward(self, features: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Return logits [B, n] for projected features [B, C, H, W].

        `class_labels` are one-hot [B, label_dim] or indices [B]; unconditional heads ignore them.

        Raises:
            UserError: a class-conditional head gets no labels.
        """
        x = self.main(features)
        if self.label_dim:
            if class_labels is None:
                raise UserError("A class-conditional discriminator needs class labels.")
            indices = class_labels.argmax(1) if class_labels.ndim == 2 else class_labels
            embedded = self.embed_proj(self.embed(indices))
            x = (self.cls(x) * embedded[:, :, None, None]).sum(1) / math.sqrt(CLASS_CHANNELS)
        return x.flatten(1)


def downsampling_head(
    in_channels: int,
    start_size: int,
    end_size: int,
    *,
    group: int,
    seed: int,
    head_channels: int = 64,
    label_dim: int = 0,
    embedding: Tensor | None = None,
) -> Head:
    """Return a head that halves features by 4x4 convolutions of stride 2.

    The nominal sizes of its input and output fix the number of halvings and the channels, of which there are
    as many as published for `head_channels` 64, and in proportion for other values.
    """
    sizes = [size for size in CHANNELS_BY_SIZE if end_size <= size < start_size]
    channels = [in_channels, *(CHANNELS_BY_SIZE[size] * head_channels // 64 for size in sizes)]
    kernel = 4 if end_size >= 8 else end_size // 2
    with seeded_weights(seed):
        blocks = [_Downsampling(inputs, outputs, group) for inputs, outputs in itertools.pairwise(channels)]
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


def local_head(
    in_channels: int,
    head_channels: int,
    *,
    group: int,
    seed: int,
    label_dim: int = 0,
    embedding: Tensor | None = None,
) -> Head:
    """Return a head of two 3x3 convolutions at the features' resolution, for images too tiny to halve."""

    def layer(inputs: int) -> list[nn.Module]:
        # No bias: batch norm would take it out again.
        convolution = nn.Conv2d(inputs, head_channels, 3, padding=1, bias=False)
        norm = GroupedBatchNorm2d(head_channels, group)
        return [spectral_norm(convolution), norm, nn.LeakyReLU(0.2, inplace=True)]

    with seeded_weights(seed):
        blocks = [*layer(in_channels), *layer(head_channels)]
        return Head(blocks, head_channels, 1, label_dim, embedding)


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
