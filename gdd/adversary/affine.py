"""Affine maps of the plane and of colour space as matrices, one an image, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

# v v^T for the axis of grey, v = (1, 1, 1) / sqrt(3), and the cross product with v; in 4x4.
_GREY = torch.zeros(4, 4, dtype=torch.float64)
_GREY[:3, :3] = 1 / 3
_COLOUR = torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)) - _GREY
_CROSS = torch.zeros(4, 4, dtype=torch.float64)
_CROSS[:3, :3] = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5


def scaling(*factors: Tensor) -> Tensor:
    """Return [B, n + 1, n + 1] that multiplies n coordinates by a factor [B] each."""
    return torch.diag_embed(torch.stack([*factors, torch.ones_like(factors[0])], dim=1))


def shift(*offsets: Tensor) -> Tensor:
    """Return [B, n + 1, n + 1] that adds an offset [B] to each of n coordinates."""
    matrix = identity(len(offsets) + 1).repeat(len(offsets[0]), 1, 1)
    matrix[:, :-1, -1] = torch.stack(offsets, dim=1)
    return matrix


def rotation(cosine: Tensor, sine: Tensor) -> Tensor:
    """Return [B, 3, 3] that turns x towards y by the angle with that cosine and sine, [B] each."""
    matrix = identity(3).repeat(len(cosine), 1, 1)
    matrix[:, 0, 0] = matrix[:, 1, 1] = cosine
    matrix[:, 1, 0], matrix[:, 0, 1] = sine, -sine
    return matrix


def luma_flip(flip: Tensor) -> Tensor:
    """Return [B, 4, 4] that mirrors grey where `flip` [B] is 1: I - 2 v v^T (Householder)."""
    return identity(4) - 2 * _each(flip) * _GREY


def hue_rotation(angle: Tensor) -> Tensor:
    """Return [B, 4, 4] that turns colours around the axis of grey by radians [B] (Rodrigues)."""
    return identity(4) + _each(angle.sin()) * _CROSS + _each(angle.cos() - 1) * _COLOUR


def saturation(factor: Tensor) -> Tensor:
    """Return [B, 4, 4] that scales the distance from grey: v v^T + (I - v v^T) s."""
    return identity(4) + _each(factor - 1) * _COLOUR


def identity(size: int) -> Tensor:
    """Return the identity, [size, size]."""
    return torch.eye(size, dtype=torch.float64)


def _each(values: Tensor) -> Tensor:
    return values[:, None, None]
