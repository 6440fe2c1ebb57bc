"""Adversarial losses, per image, on logits as a projected discriminator gives them: one [B, n] a backbone.

A new one is an entry of `LOSSES`, and its name in `gdd.config.recipe.Distributional`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

Logits = Sequence[Tensor]
OfALogit = Callable[[Tensor], Tensor]


class AdversarialLoss(NamedTuple):
    """What a single logit costs: a fake's the generator, a fake's and a real's the discriminator."""

    of_generator: OfALogit
    of_fake: OfALogit
    of_real: OfALogit

    def generator(self, fake: Logits) -> Tensor:
        """Return the generator's loss of each image, [B]."""
        return _per_image(self.of_generator, fake)

    def discriminator(self, real: Logits, fake: Logits) -> Tensor:
        """Return the discriminator's loss of each pair of a real and a fake image, [B]."""
        return _per_image(self.of_real, real) + _per_image(self.of_fake, fake)


def _per_image(loss: OfALogit, logits: Logits) -> Tensor:
    """Average over the logits of one image and backbone, then sum over the backbones."""
    return torch.stack([loss(of_backbone).mean(dim=1) for of_backbone in logits]).sum(dim=0)


LOSSES = {
    # GAN, arXiv:1406.2661: the non-saturating loss of Section 3, and Eq. 1 negated.
    "softplus": AdversarialLoss(lambda fake: softplus(-fake), softplus, lambda real: softplus(-real)),
    # Geometric GAN, arXiv:1705.02894.
    "hinge": AdversarialLoss(lambda fake: -fake, lambda fake: relu(1 + fake), lambda real: relu(1 - real)),
}
