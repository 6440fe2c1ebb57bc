"""Group norm, with SiLU after it or not, that goes once over memory in each direction: kernels in Triton.

For images [B, C, H, W] in `channels_last`. A program has one image and the channels of some whole groups, and
goes over them twice; what it reads the second time is still in the cache.

    xhat = (x - mean) * scale, scale = 1 / sqrt(variance + eps), a = weight * xhat + bias, y = a * sigmoid(a)

With d the gradient by a, and M the mean over a group, the gradient by x is

    scale * (weight * d - M[weight * d] - xhat * M[weight * d * xhat]).

What is computed is float32, or float64 where the images are.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS, CHANNELS = 64, 64  # of a tile: pixels, and channels where a group has no more
WARPS = 8


class FusedGroupNorm(torch.autograd.Function):
    """`group_norm(x, groups, weight, bias, eps)`, then SiLU if `silu`; has no second derivative."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        mean, scale = x.new_empty(2, *x.shape[:2], dtype=dtype)
        y = torch.empty_like(x)
        grid, shape = _division(x, groups)
        _forward[grid](x, weight, bias, y, mean, scale, eps, **shape, silu=silu, num_warps=WARPS)
        ctx.save_for_backward(x, weight, bias, mean, scale)
        ctx.groups, ctx.silu = groups, silu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, scale = ctx.saved_tensors
        by_y = by_y.contiguous(memory_format=torch.channels_last)
        by_x, of_images = torch.empty_like(x), mean.new_empty(2, *mean.shape)
        grid, shape = _division(x, ctx.groups)
        _backward[grid](
            x, weight, bias, mean, scale, by_y, by_x, *of_images, **shape, silu=ctx.silu, num_warps=WARPS
        )
        by_weight, by_bias = of_images.sum(1).to(weight.dtype)
        return by_x, by_weight, by_bias, None, None, None


def _division(x: Tensor, groups: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Return how many programs there are, and the shapes that they all have."""
    images, channels, height, width = x.shape
    size = channels // groups
    used = min(max(CHANNELS // size, 1), groups) * size  # channels of a program
    shape = {"pixels": height * width, "channels": channels, "size": size, "used": used}
    tile = {"block": triton.next_power_of_2(used), "rows": ROWS}
    return (images, triton.cdiv(channels, used)), shape | tile


@triton.jit
def _sums_of_groups(values, size: tl.constexpr, block: tl.constexpr):
    """Return for each of [block] channels the sum over those of its group."""
    group = tl.arange(0, block) // size
    return tl.sum(tl.where(group[:, None] == group[None, :], values[None, :], 0.0), axis=1)


@triton.jit
def _tile(start, pixels, channels, channel, inside, rows: tl.constexpr):
    """Return where some pixels of an image lie, [rows, block], and which of them there are."""
    row = start + tl.arange(0, rows)
    return row[:, None] * channels + channel[None, :], (row < pixels)[:, None] & inside[None, :]


@triton.jit
def _forward(
    x,
    weight,
    bias,
    y,
    mean,
    scale,
    eps,
    pixels,
    channels,
    size: tl.constexpr,
    used: tl.constexpr,
    block: tl.constexpr,
    rows: tl.constexpr,
    silu: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * used + tl.arange(0, block)
    inside = (tl.arange(0, block) < used) & (channel < channels)
    x += image * pixels * channels
    y += image * pixels * channels
    dtype = mean.dtype.element_ty
    count = size * pixels
    # Squares of distances from a number near the mean, so that little is lost when the mean's is taken off.
    near = _sums_of_groups(tl.load(x + channel, inside, 0.0).to(dtype), size, block) / size
    sums, squares = tl.zeros([rows, block], dtype), tl.zeros([rows, block], dtype)
    for start in range(0, pixels, rows):
        at, there = _tile(start, pixels, channels, channel, inside, rows)
        distance = tl.where(there, tl.load(x + at, there, 0.0).to(dtype) - near[None, :], 0.0)
        sums += distance
        squares += distance * distance
    of_mean = _sums_of_groups(tl.sum(sums, 0), size, block) / count
    variance = _sums_of_groups(tl.sum(squares, 0), size, block) / count - of_mean * of_mean
    m, s = near + of_mean, 1 / tl.sqrt(tl.maximum(variance, 0.0) + eps)
    tl.store(mean + image * channels + channel, m, inside)
    tl.store(scale + image * channels + channel, s, inside)
    w, b = tl.load(weight + channel, inside, 0.0).to(dtype), tl.load(bias + channel, inside, 0.0).to(dtype)
    for start in range(0, pixels, rows):
        at, there = _tile(start, pixels, channels, channel, inside, rows)
        value = (tl.load(x + at, there, 0.0).to(dtype) - m[None, :]) * (s * w)[None, :] + b[None, :]
        if silu:
            value = value * tl.sigmoid(value)
        tl.store(y + at, value, there)


@triton.jit
def _backward(
    x,
    weight,
    bias,
    mean,
    scale,
    by_y,
    by_x,
    by_weight,
    by_bias,
    pixels,
    channels,
    size: tl.constexpr,
    used: tl.constexpr,
    block: tl.constexpr,
    rows: tl.constexpr,
    silu: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * used + tl.arange(0, block)
    inside = (tl.arange(0, block) < used) & (channel < channels)
    x += image * pixels * channels
    by_y += image * pixels * channels
    by_x += image * pixels * channels
    dtype = mean.dtype.element_ty
    count = size * pixels
    m = tl.load(mean + image * channels + channel, inside, 0.0)[None, :]
    s = tl.load(scale + image * channels + channel, inside, 0.0)[None, :]
    w = tl.load(weight + channel, inside, 0.0).to(dtype)[None, :]
    b = tl.load(bias + channel, inside, 0.0).to(dtype)[None, :]
    sums, products = tl.zeros([rows, block], dtype), tl.zeros([rows, block], dtype)
    for start in range(0, pixels, rows):
        at, there = _tile(start, pixels, channels, channel, inside, rows)
        xhat = (tl.load(x + at, there, 0.0).to(dtype) - m) * s
        gradient = _by_affine(tl.load(by_y + at, there, 0.0).to(dtype), xhat * w + b, silu)
        sums += gradient
        products += gradient * xhat
    of_bias, of_weight = tl.sum(sums, 0), tl.sum(products, 0)
    tl.store(by_bias + image * channels + channel, of_bias, inside)
    tl.store(by_weight + image * channels + channel, of_weight, inside)
    row = tl.sum(w, 0)
    first = (_sums_of_groups(row * of_bias, size, block) / count)[None, :]
    second = (_sums_of_groups(row * of_weight, size, block) / count)[None, :]
    for start in range(0, pixels, rows):
        at, there = _tile(start, pixels, channels, channel, inside, rows)
        xhat = (tl.load(x + at, there, 0.0).to(dtype) - m) * s
        gradient = _by_affine(tl.load(by_y + at, there, 0.0).to(dtype), xhat * w + b, silu)
        tl.store(by_x + at, s * (w * gradient - first - xhat * second), there)


@triton.jit
def _by_affine(gradient, value, silu: tl.constexpr):
    """Return the gradient by what SiLU takes, or by the result where there is none."""
    if silu:
        part = tl.sigmoid(value)
        gradient = gradient * part * (1 + value * (1 - part))
    return gradient
