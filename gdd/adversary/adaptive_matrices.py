"""What ADA does to an image, as matrices from uniform numbers (arXiv:2006.06676, Appendix B)."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from gdd.adversary import affine
from gdd.adversary.augmentation import integer

GEOMETRY_WIDTH, COLOUR_WIDTH = 18, 10  # numbers per image
SMALLEST = 2.0**-54  # half of torch.rand's step, in place of 0, whose normal quantile is infinite

SCALE, CONTRAST, SATURATION = 0.2, 0.5, 1.0  # standard deviations of the base-2 logarithm of a factor
BRIGHTNESS = 0.2  # standard deviation
TRANSLATION = 0.125  # of the size: the most in whole pixels, the standard deviation in fractions of one


def geometry(numbers: Tensor, p: float, height: int, width: int) -> Tensor:
    """Return [B, 3, 3] that leads from a pixel of the result to the place in the image it is taken from.

    In pixels from the image's centre, x to the right and y down. `numbers` are [B, GEOMETRY_WIDTH].
    """
    draw = _Draws(numbers, p)
    # Pixel blitting: x-flip, quarter turns, whole pixels.
    flip = draw.either(1 - 2 * draw.below(2), 1.0)
    turns = draw.either(draw.below(4), 0.0)
    moved = draw.happens()
    x = torch.where(moved, (draw.between(-TRANSLATION, TRANSLATION) * width).round(), 0.0)
    y = torch.where(moved, (draw.between(-TRANSLATION, TRANSLATION) * height).round(), 0.0)
    # General geometric transformations. A rotation before or after the stretch has probability p together.
    p_rotation = 1 - math.sqrt(1 - p)
    size = draw.either(draw.log_normal(SCALE), 1.0)
    before = draw.either(draw.angle(), 0.0, p_rotation)
    stretch = draw.either(draw.log_normal(SCALE), 1.0)
    after = draw.either(draw.angle(), 0.0, p_rotation)
    moved = draw.happens()
    x_share = torch.where(moved, draw.normal(TRANSLATION), 0.0)
    y_share = torch.where(moved, draw.normal(TRANSLATION), 0.0)

    quarter = turns.long()
    cosine, sine = torch.tensor([[1, 0, -1, 0], [0, 1, 0, -1]], dtype=numbers.dtype)[:, quarter]
    # The inverse of what happens to the image: the inverse of every step, the first step leftmost.
    return _product(
        affine.scaling(flip, torch.ones_like(flip)),
        affine.rotation(cosine, -sine),
        affine.shift(-x, -y),
        affine.scaling(1 / size, 1 / size),
        affine.rotation(before.cos(), -before.sin()),
        affine.scaling(1 / stretch, stretch),
        affine.rotation(after.cos(), -after.sin()),
        affine.shift(-x_share * width, -y_share * height),
    )


def colour(numbers: Tensor, p: float, *, grey: bool) -> Tensor:
    """Return [B, 4, 4] that maps a pixel's (red, green, blue, 1); `grey` skips hue and saturation.

    `numbers` are [B, COLOUR_WIDTH].
    """
    draw = _Draws(numbers, p)
    brightness = draw.either(draw.normal(BRIGHTNESS), 0.0)
    contrast = draw.either(draw.log_normal(CONTRAST), 1.0)
    flip = draw.either(draw.below(2), 0.0)
    steps = [
        affine.luma_flip(flip),
        affine.scaling(contrast, contrast, contrast),
        affine.shift(brightness, brightness, brightness),
    ]
    if not grey:
        hue = affine.hue_rotation(draw.either(draw.angle(), 0.0))
        saturation = affine.saturation(draw.either(draw.log_normal(SATURATION), 1.0))
        steps = [saturation, hue, *steps]
    return _product(*steps)


class _Draws:
    """Takes the columns [B] of uniform numbers one after the other, as random variables."""

    def __init__(self, numbers: Tensor, p: float) -> None:
        self._columns = iter(numbers.unbind(dim=1))
        self._p = p

    def happens(self, p: float | None = None) -> Tensor:
        return next(self._columns) < (self._p if p is None else p)

    def either(self, value: Tensor, neutral: float, p: float | None = None) -> Tensor:
        """Return `value` with probability p (as given to all, or this one), `neutral` otherwise."""
        return torch.where(self.happens(p), value, neutral)

    def below(self, count: int) -> Tensor:
        return integer(next(self._columns), count)

    def between(self, low: float, high: float) -> Tensor:
        return low + (high - low) * next(self._columns)

    def angle(self) -> Tensor:
        return self.between(-math.pi, math.pi)

    def normal(self, deviation: float) -> Tensor:
        return torch.special.ndtri(next(self._columns).clamp(min=SMALLEST)) * deviation

    def log_normal(self, deviation: float) -> Tensor:
        """Return Lognormal(0, (deviation ln 2)^2)."""
        return torch.exp2(self.normal(deviation))


def _product(*matrices: Tensor) -> Tensor:
    return functools.reduce(torch.matmul, matrices)
