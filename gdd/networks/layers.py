"""The layers and the residual block of EDM's U-Nets: float32 weights that compute in their input's dtype.

Shapes: B images, C channels, H x W pixels. Mixed precision works by casting the weights at use, so that
optimizer, EMA and checkpoints only ever see float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from gdd.config.architecture import Architecture
from gdd.networks.casting import Weighted
from gdd.networks.group_norm import GroupNorm

Initializer = Callable[[Tensor, Tensor | None], object]


def glorot(weight: Tensor, bias: Tensor | None, gain: float = 1.0) -> None:
    """Uniform weights of variance gain^2 * 2 / (fan_in + fan_out), zero biases (SongUNet)."""
    nn.init.xavier_uniform_(weight, gain)
    if bias is not None:
        nn.init.zeros_(bias)


def fan_in(weight: Tensor, bias: Tensor | None) -> None:
    """Weights and biases uniform in +-1/sqrt(fan_in), which is PyTorch's default (ADM)."""
    bound = 1 / math.sqrt(weight[0].numel())
    nn.init.uniform_(weight, -bound, bound)
    if bias is not None:
        nn.init.uniform_(bias, -bound, bound)


def zeros(weight: Tensor, bias: Tensor | None) -> None:
    """All zero: a residual branch that starts as the identity (ADM)."""
    nn.init.zeros_(weight)
    if bias is not None:
        nn.init.zeros_(bias)


class Linear(nn.Module):
    """[B, inputs] -> [B, outputs]."""

    def __init__(self, inputs: int, outputs: int, init: Initializer, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        init(self.weight.data, None if self.bias is None else self.bias.data)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return functional.linear(x, self.weight.to(x.dtype), bias)


def one_by_one(device: torch.device) -> bool:
    """Whether layers that could multiply together do so by themselves, to the same bits as PyTorch's.

    They do on a CPU, which many operators do not slow down.
    """
    return device.type == "cpu"


def apply_all(layers: Sequence[Linear], x: Tensor, dtype: torch.dtype) -> Sequence[Tensor]:
    """Return what each layer makes of x, in a dtype."""
    if one_by_one(x.device) or not layers:
        return [layer(x).to(dtype) for layer in layers]
    weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
    outputs = functional.linear(x, weight, bias).to(dtype)
    return outputs.split([len(layer.weight) for layer in layers], dim=1)


def separable_filter(taps: Sequence[int]) -> Tensor:
    """Return the outer product of `taps` with itself, of sum 1, as [1, 1, n, n]."""
    # In plain Python: `torch.outer` on the meta device would import the compiler, a second at every start.
    total = sum(taps) ** 2
    return torch.tensor([[[[first * second / total for second in taps] for first in taps]]])


# EDM's two filters: how many boxes of two pixels there are beside the one that changes the resolution, as
# (1, 3, 3, 1) is (1, 1) * (1, 1) * (1, 1). Grouped transposed convolutions are slow on a GPU.
BOXES = {(1, 1): 0, (1, 3, 3, 1): 2}


def downsample(x: Tensor, kernel: Tensor, padding: int, boxes: int | None = None) -> Tensor:
    """Filter every channel of x [B, C, H, W] with `kernel` [1, 1, n, n] and keep each second pixel."""
    if boxes is not None:
        return functional.avg_pool2d(_smooth(x, boxes, padding), 2)
    depthwise = kernel.to(x.dtype).expand(x.shape[1], -1, -1, -1)
    return functional.conv2d(x, depthwise, stride=2, padding=padding, groups=x.shape[1])


def upsample(x: Tensor, kernel: Tensor, padding: int, boxes: int | None = None) -> Tensor:
    """Put zeros between the pixels of x [B, C, H, W] and filter to [B, C, 2H, 2W], keeping the mean."""
    if boxes is not None:
        return _smooth(functional.interpolate(x, scale_factor=2.0, mode="nearest"), boxes, padding)
    depthwise = (kernel * 4).to(x.dtype).expand(x.shape[1], -1, -1, -1)
    odd = kernel.shape[-1] % 2  # an odd filter would otherwise give 2H - 1
    return functional.conv_transpose2d(
        x, depthwise, stride=2, padding=padding, output_padding=odd, groups=x.shape[1]
    )


def _smooth(x: Tensor, boxes: int, padding: int) -> Tensor:
    """Average each 2 x 2 pixels, as many times as there are boxes, after a margin of zeros."""
    for box in range(boxes):
        x = functional.avg_pool2d(x, 2, stride=1, padding=0 if box else padding)
    return x


class Convolution(Weighted):
    """An n x n convolution of stride 1, after an optional resampling by two; n = 0 only resamples."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        init: Initializer,
        resample: Literal["up", "down"] | None = None,
        taps: Sequence[int] = (1, 1),
    ) -> None:
        super().__init__()
        self.resample = resample
        self.padding = size // 2
        self.filter_padding = (len(taps) - 1) // 2
        self.boxes = BOXES.get(tuple(taps))
        self.weight = nn.Parameter(torch.empty(outputs, inputs, size, size)) if size else None
        self.bias = nn.Parameter(torch.empty(outputs)) if size else None
        if self.weight is not None and self.bias is not None:
            init(self.weight.data, self.bias.data)
        if resample:
            self.register_buffer("resample_filter", separable_filter(taps))
        self.resample_filter: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H', W'] with H' = H, 2H (`up`) or H/2 (`down`)."""
        if self.resample == "up":
            x = upsample(x, self.resample_filter, self.filter_padding, self.boxes)
        elif self.resample == "down":
            x = downsample(x, self.resample_filter, self.filter_padding, self.boxes)
        return self.convolve(x, self.padding)

    def convolve(self, x: Tensor, padding: int) -> Tensor:
        if self.weight is None:
            return x
        return functional.conv2d(x, *self.weights(x.dtype), padding=padding)


class ResidualInput(Convolution):
    """NCSN++'s path from the input to a coarser level: a 3x3 convolution, and downsampling after it.

    The margin that the filter reads is convolved too, not padded with zeros (EDM's fused resampling).
    """

    def __init__(self, inputs: int, outputs: int, init: Initializer, taps: Sequence[int]) -> None:
        super().__init__(inputs, outputs, 3, init, "down", taps)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H/2, W/2]."""
        x = self.convolve(x, self.padding + self.filter_padding)
        return downsample(x, self.resample_filter, 0, self.boxes)


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Self-attention over pixels: [B, 3C, H, W], query, key and value interleaved -> [B, C, H, W].

    The fused kernels have no second derivative; `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)` has.
    """
    batch, channels, height, width = qkv.shape
    # Fused kernels want the channels of a head adjacent: [3, B, heads, H*W, C/heads].
    parts = qkv.reshape(batch, heads, channels // (3 * heads), 3, height * width).permute(3, 0, 1, 4, 2)
    query, key, value = parts.contiguous().unbind(0)
    mixed = functional.scaled_dot_product_attention(query, key, value)
    return mixed.transpose(-1, -2).reshape(batch, channels // 3, height, width)


def positional_features(noise_labels: Tensor, features: int, endpoint: bool) -> Tensor:
    """[B] -> [B, features], cosines first, at angular frequencies from 1 down to 1/10000.

    With `endpoint` the lowest frequency is exactly 1/10000 (DDPM++), without it one step above (ADM).
    """
    half = features // 2
    steps = torch.arange(half, dtype=torch.float32, device=noise_labels.device)
    frequencies = (1 / 10000) ** (steps / max(half - int(endpoint), 1))
    angles = torch.outer(noise_labels, frequencies)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class FourierFeatures(nn.Module):
    """Random Fourier features of the noise level (NCSN++); the frequencies are kept with the weights."""

    def __init__(self, features: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.empty(features // 2))
        self.freqs: Tensor
        if not self.freqs.is_meta:  # where that would import the compiler: seconds at every start
            self.freqs.normal_().mul_(scale)

    def forward(self, noise_labels: Tensor) -> Tensor:
        """[B] -> [B, features], cosines first."""
        angles = torch.outer(noise_labels, 2 * math.pi * self.freqs)
        return torch.cat([angles.cos(), angles.sin()], dim=1)


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


SONG_LAST, SONG_ATTENTION = partial(glorot, gain=1e-5), partial(glorot, gain=math.sqrt(0.2))
FAMILIES = {
    "SongUNet": Family(1e-6, math.sqrt(0.5), False, True, False, glorot, SONG_LAST, SONG_ATTENTION),
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
        self.norm0 = GroupNorm(inputs, family.eps, silu=True)
        self.conv0 = Convolution(inputs, outputs, 3, family.init, resample, taps)
        self.affine = Linear(arch.emb_channels, outputs * (2 if family.scale_and_shift else 1), family.init)
        self.norm1 = GroupNorm(outputs, family.eps, silu=not family.scale_and_shift)
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

    def forward(self, x: Tensor, params: Tensor) -> Tensor:
        """x [B, inputs, H, W] and what `affine` makes of the embedding [B, ...] -> [B, outputs, H', W']."""
        h = self.conv0(self.norm0(x))
        params = params[:, :, None, None]
        if self.family.scale_and_shift:
            scale, shift = params.chunk(2, dim=1)
            h = functional.silu(shift + self.norm1(h) * (scale + 1))
        else:
            h = self.norm1(h + params)
        h = self.conv1(functional.dropout(h, self.dropout, self.training))
        x = (h + (x if self.skip is None else self.skip(x))) * self.family.residual_scale
        if self.heads:
            x = (self.proj(attend(self.qkv(self.norm2(x)), self.heads)) + x) * self.family.residual_scale
        return x
