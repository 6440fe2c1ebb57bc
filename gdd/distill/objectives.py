"""What a student is trained on, as functions: tensors in, one loss per image out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from gdd.adversary import losses
from gdd.networks.preconditioning import OneStepGenerator


@dataclass(frozen=True)
class DistributionalLoss:
    """The two sides of a GAN loss on logits, each returning `[B]`."""

    generator: Callable[[losses.Logits], Tensor]
    discriminator: Callable[[losses.Logits, losses.Logits], Tensor]


DISTRIBUTIONAL = {
    "softplus": DistributionalLoss(losses.softplus_generator_loss, losses.softplus_discriminator_loss),
    "hinge": DistributionalLoss(losses.hinge_generator_loss, losses.hinge_discriminator_loss),
}


@dataclass(frozen=True)
class RealImages:
    """One group of the data: images `[B, C, H, W]` in [-1, 1], one-hot labels or None, the group's index."""

    images: Tensor
    class_labels: Tensor | None
    group: int


class InstanceLoss(Protocol):
    """A loss that ties each single output of the student to the teacher: `[B]` for one group."""

    def __call__(self, generator: OneStepGenerator, average: OneStepGenerator, reals: RealImages) -> Tensor:
        """Return the loss of every image of the group; `average` is the generator's EMA."""
        ...
