"""DiffAugment (arXiv:2006.10738): colour jitter, translation and cutout of every image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gdd.adversary.augmentation import Augmentation, integer, per_image
from gdd.config.recipe import AUGMENT_POLICIES, AugmentPolicy

# The columns of an image's numbers.
COLOR, TRANSLATION, CUTOUT = slice(0, 3), slice(3, 5), slice(5, 7)


class DiffAugment(Augmentation):
    """The chosen policies, in the order color, translation, cutout, on every image.

    A policy's numbers are its own: choosing another one besides does not change them.

    Args:
        policies: which of them.
    """

    width = 7

    def __init__(self, policies: Sequence[AugmentPolicy] = AUGMENT_POLICIES) -> None:
        self.policies = frozenset(policies)

    def apply(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Return images [B, C, H, W] in [-1, 1] changed by rows [B, 7]; zero (grey) fills what is empty."""
        if "color" in self.policies:
            images = color(images, numbers[:, COLOR])
        if "translation" in self.policies:
            images = translation(images, numbers[:, TRANSLATION])
        if "cutout" in self.policies:
            images = cutout(images, numbers[:, CUTOUT])
        return images


def color(images: Tensor, numbers: Tensor) -> Tensor:
    """Change brightness by [-0.5, 0.5], contrast by [0.5, 1.5], saturation by [0, 2].

    Contrast scales the distance from the image's mean, saturation that from the pixel's mean over the
    channels; so the three may come in any order, and grey images have no saturation to change.
    """
    brightness, contrast, saturation = (per_image(column, images) for column in numbers.unbind(dim=1))
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    grey = images.mean(dim=1, keepdim=True)
    saturated = grey + (images - grey) * (2 * saturation) if images.shape[1] > 1 else images
    return mean + (saturated - mean) * (0.5 + contrast) + (brightness - 0.5)


def translation(images: Tensor, numbers: Tensor) -> Tensor:
    """Move by whole pixels, up to an eighth of the size in each direction; what comes in is zero."""
    _, _, height, width = images.shape
    x, y = numbers.unbind(dim=1)
    rows, row_inside = _moved(height, y, images.device)
    columns, column_inside = _moved(width, x, images.device)
    images = images.gather(2, rows[:, None, :, None].expand_as(images))
    images = images.gather(3, columns[:, None, None, :].expand_as(images))
    inside = row_inside[:, None, :, None] & column_inside[:, None, None, :]
    return images * inside.to(images.dtype)


def _moved(size: int, number: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return [B, size] for one axis: the position every pixel is taken from, and whether it lies inside."""
    most = (size + 4) // 8  # an eighth, rounded
    offset = integer(number, 2 * most + 1) - most
    source = torch.arange(size)[None, :] - offset[:, None].long()
    inside = (source >= 0) & (source < size)
    return source.clamp(0, size - 1).to(device), inside.to(device)


def cutout(images: Tensor, numbers: Tensor) -> Tensor:
    """Set a square of half the image's size to zero.

    Its centre is anywhere in the image, so that a part of it may lie outside (Cutout, arXiv:1708.04552).
    """
    _, _, height, width = images.shape
    x, y = numbers.unbind(dim=1)
    hidden = _hidden(height, y)[:, None, :, None] & _hidden(width, x)[:, None, None, :]
    return images * (~hidden).to(images.device, images.dtype)


def _hidden(size: int, number: Tensor) -> Tensor:
    """Return [B, size] for one axis: whether a pixel is within half the size around the centre."""
    length = (size + 1) // 2
    start = integer(number, size)[:, None] - length // 2
    position = torch.arange(size)[None, :]
    return (position >= start) & (position < start + length)
