"""The residual block of EDM's U-Nets, and what distinguishes their two families."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from gdd.config.architecture import Architecture
from gdd.networks.layers import (
    Convolution,
    GroupNorm,
    Initializer,
    Linear,
    attend,
    fan_in,
    glorot,
    zeros,
)


class Family(NamedTuple):
    """What all blocks of a network have in common.

    `last` initialises the layers that end a residual branch, so that a fresh network starts close to its skip
    connections alone; `attention` the layer that makes queries, keys and values.
    """

    eps: float
    residual_scale: float
    scale_and_shift: bool  # the embedding scales and shifts norm1's output, instead of shifting its input
    resampling_has_weights: bool  # a skip path that resamples at equal widths has a 1x1 convolution too
    attends_throughout_decoder: bool  # at an attention resolution; otherwise in the level's last block only
    init: Initializer
    last: Initializer
    attention: Initializer


FAMILIES = {
    "SongUNet": Family(
        1e-6, math.sqrt(0.5), False, True, False, glorot(), glorot(1e-5), glorot(math.sqrt(0.2))
    ),
    "DhariwalUNet": Family(1e-5, 1.0, True, False, True, fan_in, zeros, fan_in),
}


class UNetBlock(nn.Module):
    """Two 3x3 convolutions with the embedding between them, a skip path, and optional self-attention."""

    def __init__(
        self,
        arch: Architecture,
        inputs: int,
        outputs: int,
        resample: Literal["up", "down"] | None = None,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.family = family = FAMILIES[arch.model_type]
        self.dropout = arch.dropout
        taps = arch.resample_filter
        self.norm0 = GroupNorm(inputs, family.eps)
        self.conv0 = Convolution(inputs, outputs, 3, family.init, resample, taps)
        self.affine = Linear(arch.emb_channels, outputs * (2 if family.scale_and_shift else 1), family.init)
        self.norm1 = GroupNorm(outputs, family.eps)
        self.conv1 = Convolution(outputs, outputs, 3, family.last)
        self.skip: Convolution | None = None
        if inputs != outputs or resample:
            size = 1 if inputs != outputs or family.resampling_has_weights else 0
            self.skip = Convolution(inputs, outputs, size, family.init, resample, taps)
        self.heads = arch.attention_heads(outputs) if attention else 0
        if self.heads:
            self.norm2 = GroupNorm(outputs, family.eps)
            self.qkv = Convolution(outputs, outputs * 3, 1, family.attention)
            self.proj = Convolution(outputs, outputs, 1, family.last)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x [B, inputs, H, W] and emb [B, emb_channels] -> [B, outputs, H', W']."""
        h = self.conv0(functional.silu(self.norm0(x)))
        params = self.affine(emb)[:, :, None, None].to(x.dtype)
        if self.family.scale_and_shift:
            scale, shift = params.chunk(2, dim=1)
            h = functional.silu(shift + self.norm1(h) * (scale + 1))
        else:
            h = functional.silu(self.norm1(h + params))
        h = self.conv1(functional.dropout(h, self.dropout, self.training))
        x = (h + (x if self.skip is None else self.skip(x))) * self.family.residual_scale
        if self.heads:
            x = (self.proj(attend(self.qkv(self.norm2(x)), self.heads)) + x) * self.family.residual_scale
        return x
