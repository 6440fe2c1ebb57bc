"""Spectral normalisation (arXiv:1802.05957) of convolutions with many weights, in few passes over them."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

EPSILON = 1e-12  # of `torch.nn.utils.spectral_norm`


class SpectralNormConv2d(nn.Conv2d):
    """A convolution by its weights over their largest singular value.

    As `torch.nn.utils.spectral_norm` of a convolution, with its names (`weight_orig`, `weight_u`,
    `weight_v`), its start and its one power iteration for every pass in training mode. That one copies the
    weights in every pass where their memory is `channels_last`, and goes over them nine times for their
    gradient; this one three times. What it gives cannot be differentiated twice by the weights, which R1 does
    not need.
    """

    weight_orig: Tensor
    weight_u: Tensor
    weight_v: Tensor

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        weight = cast(nn.Parameter, self.weight)
        del self._parameters["weight"]
        self.register_parameter("weight_orig", weight)
        with torch.no_grad():
            for name, length in (("weight_u", len(weight)), ("weight_v", weight[0].numel())):
                self.register_buffer(name, _unit(weight.new_empty(length).normal_()))

    def forward(self, input: Tensor) -> Tensor:
        """Convolve, after one power iteration in training mode."""
        weight, u, v = self.weight_orig, self.weight_u, self.weight_v
        with torch.no_grad():
            matrix = _matrix(weight)
            if self.training:
                v.copy_(_from_matrix(_unit(matrix.T @ u), weight).flatten())
            ordered = _matrix(v.view_as(weight[:1]), like=weight).flatten()
            along = matrix @ ordered
            if self.training:
                u.copy_(_unit(along))
            sigma = u @ along
            # Copies, because the next pass iterates in place.
            vectors = u.clone(), ordered.clone()
        return self._conv_forward(input, _Normalised.apply(weight, sigma, *vectors), self.bias)


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, sigma: Tensor, u: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(weight, sigma, u, v)
        return weight / sigma

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return G / sigma - <G, W> / sigma^2 u v', because the derivative of sigma by W is u v'."""
        weight, sigma, u, v = ctx.saved_tensors
        given, matrix = _matrix(gradient, like=weight), _matrix(weight)
        along = torch.dot(given.flatten(), matrix.flatten()) / sigma**2
        return _from_matrix((given / sigma).addr_(u * -along, v), weight), None, None, None


def _lies_channels_last(weight: Tensor) -> bool:
    return not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)


def _matrix(weight: Tensor, like: Tensor | None = None) -> Tensor:
    """Return [O, C * H * W], columns as `like` lies in memory, so without a copy of what lies so itself."""
    order = (0, 2, 3, 1) if _lies_channels_last(weight if like is None else like) else (0, 1, 2, 3)
    return weight.permute(order).flatten(1)


def _from_matrix(matrix: Tensor, like: Tensor) -> Tensor:
    """Return rows of `_matrix` in the shape of `like`."""
    _, channels, height, width = like.shape
    if _lies_channels_last(like):
        return matrix.view(-1, height, width, channels).permute(0, 3, 1, 2)
    return matrix.view(-1, channels, height, width)


def _unit(vector: Tensor) -> Tensor:
    return functional.normalize(vector, dim=0, eps=EPSILON)
