"""Adversarial losses, per image, on logits as a projected discriminator gives them: one [B, n] a backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

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


def _per_image(values: Logits) -> Tensor:
    """Average over the logits of one image and backbone, then sum over the backbones."""
    return torch.stack([of_backbone.mean(dim=1) for of_backbone in values]).sum(dim=0)


class AdversarialLoss(NamedTuple):
    """Both sides of a loss: on logits of fakes, and on those of reals and fakes."""

    generator: Callable[[Logits], Tensor]
    discriminator: Callable[[Logits, Logits], Tensor]


LOSSES = {
    "softplus": AdversarialLoss(softplus_generator_loss, softplus_discriminator_loss),
    "hinge": AdversarialLoss(hinge_generator_loss, hinge_discriminator_loss),
}
