"""What every random augmentation of the discriminator's input has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor


class Augmentation(ABC):
    """A random, differentiable change of images, another one for every image.

    The images the discriminator is trained on and those the generator is judged by go through it alike
    (DiffAugment, arXiv:2006.10738, Section 3; ADA, arXiv:2006.06676, Section 2). An image's change is a
    function of its own row of uniform numbers, so where a batch is parted does not matter as long as the rows
    stay the same.
    """

    width: int  # uniform numbers that an image needs

    @property
    def p(self) -> float:
        """The probability of each transformation at present."""
        return 1.0

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return the numbers of `count` images, [count, width] in [0, 1), float64 on the CPU."""
        return torch.rand(count, self.width, generator=generator, dtype=torch.float64)

    @abstractmethod
    def apply(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Return images [B, C, H, W] in [-1, 1] changed by rows [B, width] of what `draw` gave.

        The result is not clipped to [-1, 1].
        """

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images [B, C, H, W] in [-1, 1] changed by the next B rows of a CPU generator."""
        return self.apply(images, self.draw(len(images), generator))

    def observe(self, signs: float, count: int) -> None:  # noqa: B027  # only ADA has something to adapt
        """Take in the sum of the signs of `count` logits of real images, those of a whole batch."""

    def state_dict(self) -> dict[str, Any]:
        """Return what changes in training, as plain numbers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take over what `state_dict` gave."""


def integer(number: Tensor, count: int) -> Tensor:
    """Return uniform integers in [0, count) for uniform numbers in [0, 1)."""
    return (number * count).floor().clamp(max=count - 1)


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """Return one value an image, [B], in the images' type and place, to multiply [B, C, H, W] with."""
    return values.to(images.device, images.dtype)[:, None, None, None]
