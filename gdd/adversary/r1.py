"""The gradient penalty R1 (arXiv:1801.04406, Eq. 9), without differentiating the frozen networks twice.

The penalty of an image x is |g|^2, with g the gradient of the sum of all logits by x. Frozen features F of
Jacobian J lie between, so g = J'v, where v(theta) is the gradient of the same sum by the features. J does not
depend on the heads' weights theta, hence

    d|g|^2 / dtheta = 2 (J g) . dv / dtheta.

J g is one pass through F in forward mode, and dv / dtheta goes through the heads alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from gdd.adversary.discriminator import Features, ProjectedDiscriminator


def r1_backward(
    discriminator: ProjectedDiscriminator,
    images: Tensor,
    class_labels: Tensor | None,
    weight: float,
    groups: Sequence[int] = (0,),
) -> Tensor:
    """Add the gradient of `weight` times the mean penalty to that of the heads; return the penalties [B].

    Batch norm in training mode couples the images of a group. Those cross terms belong to the gradient, as in
    the published runs; also where a group spans processes, whose gradients are to be summed afterwards.

    Args:
        discriminator: whose heads take gradients.
        images: real ones, [B, C, H, W] in [-1, 1].
        class_labels: one-hot, or None.
        weight: gamma / 2, times the interval if R1 is lazy (StyleGAN2, arXiv:1912.04958, Appendix B).
        groups: of the run that the images are equal shares of.
    """
    images = images.detach().requires_grad_(True)
    features = discriminator.extract(images, groups)
    leaves = [[tap.detach().requires_grad_(True) for tap in taps] for taps in features]
    with _TwiceDifferentiable():
        logits = discriminator.logits(leaves, class_labels)
        total = torch.stack([of_backbone.sum() for of_backbone in logits]).sum()
        v = torch.autograd.grad(total, _flat(leaves), create_graph=True)
    (g,) = torch.autograd.grad(_flat(features), images, [gradient.detach() for gradient in v])
    # Of the kernels of attention only this one has a forward mode.
    with torch.no_grad(), forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # forward mode still scripts its own rules
        dual = forward_ad.make_dual(images.detach(), g)
        u = [forward_ad.unpack_dual(tap).tangent for tap in _flat(discriminator.extract(dual, groups))]
    product = torch.stack([(a * b).sum() for a, b in zip(u, v, strict=True)]).sum()
    heads = list(discriminator.heads.parameters())
    torch.autograd.backward(2 * weight / len(images) * product, inputs=heads)
    return g.square().sum(dim=(1, 2, 3))


def _flat(features: Features) -> list[Tensor]:
    return [tap for taps in features for tap in taps]


class _TwiceDifferentiable(TorchFunctionMode):
    """Computes convolutions by `_Convolution`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d:
            return _Convolution.apply(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class _Convolution(torch.autograd.Function):
    """A convolution whose gradient by its input is differentiated by the library's own kernels.

    PyTorch differentiates that gradient by the weights as a forward convolution whose kernels have the size
    of the images, which is many times slower on a GPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased, ctx.arguments = bias is not None, arguments
        return torch.conv2d(x, weight, bias, *arguments)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rest = [None] * len(ctx.arguments)
        if torch.is_grad_enabled():  # for v, which asks for no gradient by the weights
            return _InputGradient.apply(gradients[0], x, weight, *ctx.arguments), None, None, *rest
        needed = [not x.is_leaf, True, ctx.biased]  # features are leaves, which need it for v alone
        return *_gradients(gradients[0], x, weight, needed, *ctx.arguments), *rest


class _InputGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, weight: Tensor, *arguments: Any) -> Tensor:
        ctx.save_for_backward(gradient, weight)
        ctx.arguments = arguments
        by_x, _, _ = _gradients(gradient, x, weight, [True, False, False], *arguments)
        assert by_x is not None
        return by_x

    @staticmethod
    def backward(ctx: Any, *directions: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate <direction, gradient by x>, which is <gradient, convolution of the direction>."""
        gradient, weight = ctx.saved_tensors
        by_gradient = torch.conv2d(directions[0], weight, None, *ctx.arguments)
        _, by_weight, _ = _gradients(gradient, directions[0], weight, [False, True, False], *ctx.arguments)
        return by_gradient, None, by_weight, *[None] * len(ctx.arguments)


def _gradients(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    needed: list[bool],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return a convolution's gradients by input, weight and bias, as far as they are needed."""
    found: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward(
        gradient, x, weight, [len(weight)], stride, padding, dilation, False, [0, 0], groups, needed
    )
    return found
