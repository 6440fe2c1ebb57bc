"""3x3 convolutions with a quarter of the products: minimal filtering F(4x4, 3x3) (arXiv:1509.09308).

The libraries on GPUs compute large convolutions so by themselves; PyTorch's on CPUs does not. Filters have to
be transformed first, which is worth it where they never change.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

OUTPUTS, TAPS = 4, 3  # of a tile, along one side
TILE = OUTPUTS + TAPS - 1  # pixels of the input that a tile's outputs depend on, along one side
POINTS = (0, 1, -1, 2, -2)  # where polynomials are evaluated; infinity is the sixth
BYTES_AT_ONCE = 8 * 2**20  # of transformed tiles, so that they stay in a processor's cache


def is_worth_it(x: Tensor, weight: Tensor) -> bool:
    """Whether a convolution of x [B, C, H, W] with zero padding 1 by `weight` [O, C, 3, 3] is faster so.

    Measured for VGG16's on two CPU cores: from 128 and 256 channels on, 1.2 to 2.3 times as fast.
    """
    channels = weight.shape[:2]
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.ndim == 4
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and min(channels) >= 128
        and max(channels) >= 256
    )


def transformed_filters(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `convolve` takes for filters [O, C, 3, 3]: [36, C, O], and [36, O, C] for its gradient."""
    return _transformed(weight), _transformed(weight.flip(2, 3).transpose(0, 1))


def _transformed(weight: Tensor) -> Tensor:
    _, filters, _ = _matrices()
    taps = weight.detach().permute(2, 3, 1, 0).reshape(TAPS**2, -1)
    return (filters @ taps.double()).to(weight.dtype).view(TILE**2, weight.shape[1], weight.shape[0])


def convolve(x: Tensor, filters: Tensor, mirrored: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve x [B, C, H, W] with stride 1 and zero padding 1 to [B, O, H, W], with gradients for x alone.

    Args:
        x: the input.
        filters: the first of `transformed_filters`.
        mirrored: the second.
        bias: [O].
    """
    return _Convolution.apply(x, filters, mirrored, bias)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Tensor, mirrored: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(filters, mirrored)
        return _convolve(x, filters, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        filters, mirrored = ctx.saved_tensors
        # The input's gradient is such a convolution itself, whose own gradient has the filters again.
        return _Convolution.apply(gradients[0], mirrored, filters, None), None, None, None


def _convolve(x: Tensor, filters: Tensor, bias: Tensor | None) -> Tensor:
    batch, channels, height, width = x.shape
    rows, columns, outputs = -(-height // OUTPUTS), -(-width // OUTPUTS), filters.shape[2]
    to_tiles, _, to_outputs = (matrix.to(x.dtype) for matrix in _matrices())
    # With each pixel's channels side by side, and padded so far that whole tiles cover everything.
    borders = (0, 0, 1, OUTPUTS * columns + 1 - width, 1, OUTPUTS * rows + 1 - height)
    pixels = functional.pad(x.permute(0, 2, 3, 1), borders)
    tiles = pixels.unfold(1, TILE, OUTPUTS).unfold(2, TILE, OUTPUTS).permute(4, 5, 0, 1, 2, 3)
    shape = (batch, outputs, OUTPUTS * rows, OUTPUTS * columns)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    of_row = TILE**2 * columns * max(channels, outputs) * x.element_size()
    at_once = max(1, min(rows, BYTES_AT_ONCE // of_row)), max(1, BYTES_AT_ONCE // (of_row * rows))
    for image in range(0, batch, at_once[1]):
        for row in range(0, rows, at_once[0]):
            some = tiles[:, :, image : image + at_once[1], row : row + at_once[0]]
            images, its_rows = some.shape[2:4]
            spectra = (to_tiles @ some.reshape(TILE**2, -1)).view(TILE**2, -1, channels)
            products = torch.bmm(spectra, filters).view(TILE**2, -1)
            found = (to_outputs @ products).view(OUTPUTS, OUTPUTS, images, its_rows, columns, outputs)
            place = y.permute(0, 2, 3, 1)[image : image + images, OUTPUTS * row : OUTPUTS * (row + its_rows)]
            place = place.view(images, its_rows, OUTPUTS, columns, OUTPUTS, outputs)
            place.copy_(found.permute(2, 3, 0, 4, 1, 5))
    if bias is not None:
        y += bias[:, None, None]
    if y.shape[2:] == (height, width):
        return y
    return y[:, :, :height, :width].clone(memory_format=torch.channels_last)


@functools.cache
def _matrices() -> tuple[Tensor, Tensor, Tensor]:
    """Return what transforms tiles [36, 36], filters [36, 9] and products [16, 36], in float64.

    Along one side, a filter of 3 taps and 4 outputs are polynomials, evaluated at POINTS and at infinity; the
    tile is transformed by the transpose of interpolation (Toom-Cook's algorithm, transposed).
    """

    def powers(count: int) -> np.ndarray:
        rows: list[Sequence[float]] = [[point**power for power in range(count)] for point in POINTS]
        return np.array([*rows, [0] * (count - 1) + [1]], dtype=float)

    def others(point: int | None) -> list[int]:
        return [other for other in POINTS if other != point]

    scale = [1 / math.prod(point - other for other in others(point)) for point in POINTS]
    tile = np.zeros((TILE, TILE))
    for index, point in enumerate((*POINTS, None)):
        coefficients = np.polynomial.polynomial.polyfromroots(others(point))
        tile[index, : len(coefficients)] = coefficients
    filters = powers(TAPS) * np.array([*scale, 1])[:, None]
    sides = (tile, filters, powers(OUTPUTS).T)
    return tuple(torch.from_numpy(np.kron(side, side)) for side in sides)  # type: ignore[return-value]
