"""Convolutions whose weights never take a gradient, and which compute none of what only such a one needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from gdd.adversary import winograd


class FrozenConv2d(nn.Conv2d):
    """A convolution that passes gradients to its input alone.

    The results are an ordinary convolution's, up to rounding. That one keeps its input for the weights'
    gradient, and computes one in the second derivative, whether or not its weights are frozen; in R1 that is
    about as much work again as the pass through a frozen network.

    Args:
        other: of zero padding; its weights are taken over.
    """

    filters: Tensor | None
    mirrored: Tensor | None

    def __init__(self, other: nn.Conv2d) -> None:
        with torch.device("meta"):
            super().__init__(
                other.in_channels,
                other.out_channels,
                cast(tuple[int, int], other.kernel_size),
                cast(tuple[int, int], other.stride),
                cast(tuple[int, int], other.padding),
                cast(tuple[int, int], other.dilation),
                other.groups,
                bias=other.bias is not None,
            )
        self.weight, self.bias = other.weight, other.bias
        self.requires_grad_(False)
        # Buffers, so that what counts a network's memory counts them too.
        self.register_buffer("filters", None, persistent=False)
        self.register_buffer("mirrored", None, persistent=False)
        self._transformed: object = None

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        stride, padding, dilation = self.stride, cast(tuple[int, int], self.padding), self.dilation
        usual = (stride, padding, dilation, self.groups) == ((1, 1), (1, 1), (1, 1), 1)
        if usual and self.kernel_size == (3, 3) and winograd.is_worth_it(input, weight):
            return winograd.convolve(input, *self._transformed_filters(), bias)
        return frozen_convolution(input, weight, bias, stride, padding, dilation, self.groups)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Forget the transforms, which other weights are about to replace, perhaps on a GPU."""
        self.filters = self.mirrored = self._transformed = None
        return super()._apply(fn, recurse)

    def _transformed_filters(self) -> tuple[Tensor, Tensor]:
        """Return the weights' transforms, made again where other weights have taken their place."""
        version = self.weight.data_ptr(), self.weight._version
        if self._transformed != version:
            with torch.inference_mode(False):  # whose tensors no later backward pass could use
                self.filters, self.mirrored = winograd.transformed_filters(self.weight)
            self._transformed = version
        assert self.filters is not None
        assert self.mirrored is not None
        return self.filters, self.mirrored


def frozen_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...] = (1, 1),
    padding: tuple[int, ...] = (0, 0),
    dilation: tuple[int, ...] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Convolve x [B, C, H, W] as `torch.nn.functional.conv2d`, with gradients for x alone."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return functional.conv2d(x, weight, bias, stride, padding, dilation, groups)
    device = x.device.type
    if torch.is_autocast_enabled(device):  # which does not reach into `_FrozenConvolution.backward`
        dtype = torch.get_autocast_dtype(device)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return _FrozenConvolution.apply(x, weight, bias, stride, padding, dilation, groups)


class _FrozenConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.arguments, ctx.shape = arguments, x.shape
        return functional.conv2d(x, weight, bias, *arguments)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.arguments
        # The transposed convolution; what its output lacks are pixels that strides did not reach.
        sizes = zip(gradients[0].shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
        reached = [(n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in sizes]
        lacking = [size - have for size, have in zip(ctx.shape[2:], reached, strict=True)]
        gradient = functional.conv_transpose2d(
            gradients[0], weight, None, stride, padding, lacking, groups, dilation
        )
        return gradient, *[None] * (2 + len(ctx.arguments))


def freeze_convolutions(net: nn.Module) -> None:
    """Make every plain convolution inside `net` a frozen one, in place; subclasses stay as they are."""
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if (
                type(child) is nn.Conv2d
                and child.padding_mode == "zeros"
                and not isinstance(child.padding, str)
            ):
                setattr(parent, name, FrozenConv2d(child))
