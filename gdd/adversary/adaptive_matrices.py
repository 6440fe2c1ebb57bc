"""What ADA does to an image, as matrices from uniform numbers (arXiv:2006.06676, Appendix B), in float64."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

GEOMETRY_WIDTH, COLOUR_WIDTH = 18, 10  # numbers per image
SMALLEST = 2.0**-54  # half of torch.rand's step, in place of 0, whose normal quantile is infinite

SCALE, CONTRAST, SATURATION = 0.2, 0.5, 1.0  # standard deviations of the base-2 logarithm of a factor
BRIGHTNESS = 0.2  # standard deviation
TRANSLATION = 0.125  # of the size: the most in whole pixels, the standard deviation in fractions of one

# v v^T for the axis of grey, v = (1, 1, 1) / sqrt(3), and the cross product with v; in 4x4.
_GREY = torch.zeros(4, 4, dtype=torch.float64)
_GREY[:3, :3] = 1 / 3
_COLOUR = torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)) - _GREY
_CROSS = torch.zeros(4, 4, dtype=torch.float64)
_CROSS[:3, :3] = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5


def geometry(numbers: Tensor, p: float, height: int, width: int) -> Tensor:
    """Return [B, 3, 3] that leads from a pixel of the result to the place in the image it is taken from.

    In pixels from the image's centre, x to the right and y down. `numbers` are [B, GEOMETRY_WIDTH].
    """
    u = numbers.unbind(dim=1)
    # Pixel blitting: x-flip, quarter turns, whole pixels.
    flip = torch.where(u[1] < p, 1 - 2 * (u[0] * 2).floor(), 1.0)
    quarter = torch.where(u[3] < p, (u[2] * 4).floor(), 0.0).long()
    cosine, sine = torch.tensor([[1, 0, -1, 0], [0, 1, 0, -1]], dtype=numbers.dtype)[:, quarter]
    x = torch.where(u[4] < p, (_between(-TRANSLATION, TRANSLATION, u[5]) * width).round(), 0.0)
    y = torch.where(u[4] < p, (_between(-TRANSLATION, TRANSLATION, u[6]) * height).round(), 0.0)
    # General geometric transformations. A rotation before or after the stretch has probability p together.
    p_rotation = 1 - math.sqrt(1 - p)
    size = torch.where(u[8] < p, _log_normal(SCALE, u[7]), 1.0)
    before = torch.where(u[10] < p_rotation, _between(-math.pi, math.pi, u[9]), 0.0)
    stretch = torch.where(u[12] < p, _log_normal(SCALE, u[11]), 1.0)
    after = torch.where(u[14] < p_rotation, _between(-math.pi, math.pi, u[13]), 0.0)
    x_share = torch.where(u[15] < p, _normal(TRANSLATION, u[16]), 0.0)
    y_share = torch.where(u[15] < p, _normal(TRANSLATION, u[17]), 0.0)
    # The inverse of what happens to the image: the inverse of every step, the first step leftmost.
    return _product(
        scaling(flip, torch.ones_like(flip)),
        rotation(cosine, -sine),
        shift(-x, -y),
        scaling(1 / size, 1 / size),
        rotation(before.cos(), -before.sin()),
        scaling(1 / stretch, stretch),
        rotation(after.cos(), -after.sin()),
        shift(-x_share * width, -y_share * height),
    )


def colour(numbers: Tensor, p: float, *, grey: bool) -> Tensor:
    """Return [B, 4, 4] that maps a pixel's (red, green, blue, 1); `grey` skips hue and saturation.

    `numbers` are [B, COLOUR_WIDTH].
    """
    u = numbers.unbind(dim=1)
    brightness = torch.where(u[1] < p, _normal(BRIGHTNESS, u[0]), 0.0)
    contrast = torch.where(u[3] < p, _log_normal(CONTRAST, u[2]), 1.0)
    flip = torch.where(u[5] < p, (u[4] * 2).floor(), 0.0)
    hue = torch.where(u[7] < p, _between(-math.pi, math.pi, u[6]), 0.0)
    factor = torch.where(u[9] < p, _log_normal(SATURATION, u[8]), 1.0)
    return _product(
        *([] if grey else [saturation(factor), hue_rotation(hue)]),
        luma_flip(flip),
        scaling(contrast, contrast, contrast),
        shift(brightness, brightness, brightness),
    )


def _between(low: float, high: float, uniform: Tensor) -> Tensor:
    return low + (high - low) * uniform


def _normal(deviation: float, uniform: Tensor) -> Tensor:
    return torch.special.ndtri(uniform.clamp(min=SMALLEST)) * deviation


def _log_normal(deviation: float, uniform: Tensor) -> Tensor:
    """Return Lognormal(0, (deviation ln 2)^2)."""
    return torch.exp2(_normal(deviation, uniform))


def scaling(*factors: Tensor) -> Tensor:
    """Return [B, n + 1, n + 1] that multiplies n coordinates by a factor [B] each."""
    return torch.diag_embed(torch.stack([*factors, torch.ones_like(factors[0])], dim=1))


def shift(*offsets: Tensor) -> Tensor:
    """Return [B, n + 1, n + 1] that adds an offset [B] to each of n coordinates."""
    matrix = _identity(len(offsets) + 1).repeat(len(offsets[0]), 1, 1)
    matrix[:, :-1, -1] = torch.stack(offsets, dim=1)
    return matrix


def rotation(cosine: Tensor, sine: Tensor) -> Tensor:
    """Return [B, 3, 3] that turns x towards y by the angle with that cosine and sine, [B] each."""
    matrix = _identity(3).repeat(len(cosine), 1, 1)
    matrix[:, 0, 0] = matrix[:, 1, 1] = cosine
    matrix[:, 1, 0], matrix[:, 0, 1] = sine, -sine
    return matrix


def luma_flip(flip: Tensor) -> Tensor:
    """Return [B, 4, 4] that mirrors grey where `flip` [B] is 1: I - 2 v v^T (Householder)."""
    return _identity(4) - 2 * flip[:, None, None] * _GREY


def hue_rotation(angle: Tensor) -> Tensor:
    """Return [B, 4, 4] that turns colours around the axis of grey by radians [B] (Rodrigues)."""
    angle = angle[:, None, None]
    return _identity(4) + angle.sin() * _CROSS + (angle.cos() - 1) * _COLOUR


def saturation(factor: Tensor) -> Tensor:
    """Return [B, 4, 4] that scales the distance from grey: v v^T + (I - v v^T) s."""
    return _identity(4) + (factor[:, None, None] - 1) * _COLOUR


def _identity(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)


def _product(*matrices: Tensor) -> Tensor:
    return functools.reduce(torch.matmul, matrices)
