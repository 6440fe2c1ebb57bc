"""Adversarial losses, per image, on logits as a projected discriminator gives them: one [B, n] a backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

Logits = Sequence[Tensor]


def softplus_generator_loss(fake: Logits) -> Tensor:
    """Return the non-saturating loss softplus(-D(G(z))), [B] (GAN, arXiv:1406.2661, Section 3)."""
    return _per_image([functional.softplus(-logits) for logits in fake])


def softplus_discriminator_loss(real: Logits, fake: Logits) -> Tensor:
    """Return softplus(D(G(z))) + softplus(-D(x)), [B] (GAN, arXiv:1406.2661, Eq. 1, negated)."""
    return _per_image([functional.softplus(-logits) for logits in real]) + _per_image(
        [functional.softplus(logits) for logits in fake]
    )


def hinge_generator_loss(fake: Logits) -> Tensor:
    """Return -D(G(z)), [B] (geometric GAN, arXiv:1705.02894)."""
    return _per_image([-logits for logits in fake])


def hinge_discriminator_loss(real: Logits, fake: Logits) -> Tensor:
    """Return max(0, 1 - D(x)) + max(0, 1 + D(G(z))), [B] (geometric GAN, arXiv:1705.02894)."""
    return _per_image([functional.relu(1 - logits) for logits in real]) + _per_image(
        [functional.relu(1 + logits) for logits in fake]
    )


def r1_penalty(
    discriminator: Callable[[Tensor, Tensor | None], Logits], images: Tensor, labels: Tensor | None = None
) -> Tensor:
    """Return the squared gradient norm of the sum of all logits with respect to each image, [B].

    To be multiplied by gamma / 2 (R1, arXiv:1801.04406, Eq. 9). Its own gradient reaches the discriminator's
    weights. Batch norm in training mode couples the images of a group; those cross terms belong to the
    gradient, as in the published runs.

    Args:
        discriminator: images and labels to logits [B, n] per backbone.
        images: real images [B, C, H, W] in [-1, 1].
        labels: as the discriminator takes them.
    """
    # The fused kernels of attention (DeiT's, a teacher's encoder's) have no second derivative; this one has.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        images = images.detach().requires_grad_(True)
        total = torch.stack([logits.sum() for logits in discriminator(images, labels)]).sum()
        (gradient,) = torch.autograd.grad(total, images, create_graph=True)
        return gradient.square().sum(dim=(1, 2, 3))


def _per_image(values: Logits) -> Tensor:
    """Average over the logits of one image and backbone, then sum over the backbones."""
    return torch.stack([of_backbone.mean(dim=1) for of_backbone in values]).sum(dim=0)
