"""The residual block of EDM's U-Nets and what distinguishes its two families."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

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


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the blocks of one network have in common.

    `last` initialises the layers that end a residual branch, so that a fresh network starts close to its
    skip connections alone; `attention` the layer that makes queries, keys and values.
    """

    emb_channels: int
    dropout: float
    taps: Sequence[int]
    eps: float
    residual_scale: float
    scale_and_shift: bool  # the embedding scales and shifts norm1's output, instead of shifting its input
    resampling_has_weights: (
        bool  # the skip path of a resampling block has a 1x1 convolution at equal widths too
    )
    heads: Callable[[int], int]  # of attention, by channels
    attends_throughout_decoder: bool  # at an attention resolution; otherwise in the level's last block only
    init: Initializer
    last: Initializer
    attention: Initializer

    @classmethod
    def of(cls, arch: Architecture) -> Family:
        """Return the family of `arch`."""
        emb_channels = arch.model_channels * arch.channel_mult_emb
        if arch.model_type == "SongUNet":
            return cls(
                emb_channels=emb_channels,
                dropout=arch.dropout,
                taps=arch.resample_filter,
                eps=1e-6,
                residual_scale=math.sqrt(0.5),
                scale_and_shift=False,
                resampling_has_weights=True,
                heads=arch.attention_heads,
                attends_throughout_decoder=False,
                init=glorot(),
                last=glorot(1e-5),
                attention=glorot(math.sqrt(0.2)),
            )
        return cls(
            emb_channels=emb_channels,
            dropout=arch.dropout,
            taps=arch.resample_filter,
            eps=1e-5,
            residual_scale=1.0,
            scale_and_shift=True,
            resampling_has_weights=False,
            heads=arch.attention_heads,
            attends_throughout_decoder=True,
            init=fan_in,
            last=zeros,
            attention=fan_in,
        )


class UNetBlock(nn.Module):
    """Two 3x3 convolutions with the embedding between them, a skip path, and optional self-attention."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        family: Family,
        resample: Literal["up", "down"] | None = None,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.family = family
        self.norm0 = GroupNorm(inputs, family.eps)
        self.conv0 = Convolution(inputs, outputs, 3, family.init, resample, family.taps)
        self.affine = Linear(family.emb_channels, outputs * (2 if family.scale_and_shift else 1), family.init)
        self.norm1 = GroupNorm(outputs, family.eps)
        self.conv1 = Convolution(outputs, outputs, 3, family.last)
        self.skip: Convolution | None = None
        if inputs != outputs or resample:
            size = 1 if inputs != outputs or family.resampling_has_weights else 0
            self.skip = Convolution(inputs, outputs, size, family.init, resample, family.taps)
        self.heads = family.heads(outputs) if attention else 0
        if self.heads:
            self.norm2 = GroupNorm(outputs, family.eps)
            self.qkv = Convolution(outputs, outputs * 3, 1, family.attention)
            self.proj = Convolution(outputs, outputs, 1, family.last)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x [B, inputs, H, W] and emb [B, emb_channels] -> [B, outputs, H', W']."""
        family = self.family
        h = self.conv0(functional.silu(self.norm0(x)))
        params = self.affine(emb)[:, :, None, None].to(x.dtype)
        if family.scale_and_shift:
            scale, shift = params.chunk(2, dim=1)
            h = functional.silu(shift + self.norm1(h) * (scale + 1))
        else:
            h = functional.silu(self.norm1(h + params))
        h = self.conv1(functional.dropout(h, family.dropout, self.training))
        x = (h + (x if self.skip is None else self.skip(x))) * family.residual_scale
        if self.heads:
            x = (self.proj(attend(self.qkv(self.norm2(x)), self.heads)) + x) * family.residual_scale
        return x
