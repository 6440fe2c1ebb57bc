"""Random, differentiable augmentation of the discriminator's input: DiffAugment and ADA."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gdd.adversary.adaptive_matrices import COLOUR_WIDTH, GEOMETRY_WIDTH, colour, geometry
from gdd.config.recipe import AUGMENT_POLICIES, Augment, AugmentPolicy

INTERVAL = 4  # batches between two adjustments of ADA


def build_augmentation(recipe: Augment, batch: int) -> Augmentation | None:
    """Return the augmentation, or None for `kind: none`; the images in a batch decide how fast ADA adapts."""
    if recipe.kind == "diffaugment":
        return DiffAugment(recipe.policies)
    if recipe.kind == "ada":
        return AdaptiveAugment(batch, recipe.target, recipe.speed_kimg)
    return None


class Augmentation(ABC):
    """A random, differentiable change of images, another one for every image.

    Real images that the discriminator is trained on and generated ones go through it alike (DiffAugment,
    arXiv:2006.10738, Section 3; ADA, arXiv:2006.06676, Section 2). An image's change is a function of its own
    row of uniform numbers, so it does not matter how a batch is split.
    """

    width: int  # uniform numbers that an image needs
    p: float  # the probability of each transformation at present

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return the numbers of `count` images, [count, width] in [0, 1), float64 on the CPU."""
        return torch.rand(count, self.width, generator=generator, dtype=torch.float64)

    @abstractmethod
    def apply(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Return images [B, C, H, W] in [-1, 1] changed by rows [B, width] of what `draw` gave.

        The result is not clipped to [-1, 1].
        """

    def observe(self, signs: float, count: int) -> None:  # noqa: B027  # only ADA has something to adapt
        """Take in the sum of the signs of `count` logits of real images, those of a whole batch."""

    def state_dict(self) -> dict[str, Any]:
        """Return what changes in training, as plain numbers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take over what `state_dict` gave."""


class DiffAugment(Augmentation):
    """The chosen policies, in the order color, translation, cutout, on every image.

    A policy's numbers are its own: choosing another one besides does not change them.
    """

    width = 7
    p = 1.0

    def __init__(self, policies: Sequence[AugmentPolicy] = AUGMENT_POLICIES) -> None:
        self.policies = frozenset(policies)

    def apply(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Return images [B, C, H, W] in [-1, 1] changed by rows [B, 7]; zero (grey) fills what is empty."""
        if "color" in self.policies:
            images = color(images, numbers[:, 0:3])
        if "translation" in self.policies:
            images = translation(images, numbers[:, 3:5])
        if "cutout" in self.policies:
            images = cutout(images, numbers[:, 5:7])
        return images


def color(images: Tensor, numbers: Tensor) -> Tensor:
    """Change brightness by [-0.5, 0.5], contrast by [0.5, 1.5], saturation by [0, 2].

    Contrast scales the distance from the image's mean, saturation that from the pixel's mean over the
    channels; so the three may come in any order, and grey images have no saturation to change.
    """
    brightness, contrast, saturation = (_per_image(column, images) for column in numbers.unbind(dim=1))
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
    offset = (number * (2 * most + 1)).floor() - most
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
    start = (number * size).floor()[:, None] - length // 2
    position = torch.arange(size)[None, :]
    return (position >= start) & (position < start + length)


class AdaptiveAugment(Augmentation):
    """Each transformation of ADA's `bgc` pipeline (arXiv:2006.06676, Appendix B) with probability p.

    As in the paper, all geometric transformations of an image become one affine map and all of its colours
    one matrix. Simpler than the paper: it resamples at twice the resolution between two wavelet filters
    (sym6), here the image itself is sampled bilinearly, mirrored beyond its edges. So flips, quarter turns
    and whole-pixel moves alone keep every pixel, all others blur a little and shrinking aliases a little. An
    image that no transformation meets stays as it is, to the bit.

    p is raised while the discriminator overfits and lowered while it does not (Section 3): every four batches
    it goes a step of fixed size towards r_t = E[sign(D(real))] = `target`, the expectation being over all
    logits of real, augmented images since the last adjustment.

    There is no second derivative: R1 has to be taken of the images themselves.

    Args:
        batch: images in a batch.
        target: of r_t (published: 0.6).
        speed_kimg: thousands of images in which p can go from 0 to 1 (published: 500).
    """

    width = GEOMETRY_WIDTH + COLOUR_WIDTH

    def __init__(self, batch: int, target: float = 0.6, speed_kimg: float = 500.0) -> None:
        self.target = target
        self.step = batch * INTERVAL / (speed_kimg * 1000)
        self.p = 0.0
        self._clear()

    def _clear(self) -> None:
        self._signs, self._count, self._batches = 0.0, 0, 0

    def apply(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Return images [B, C, H, W] in [-1, 1] changed by rows [B, 28]; C is 3, or 1 for grey."""
        if self.p == 0:
            return images
        _, channels, height, width = images.shape
        places, colours = numbers.split([GEOMETRY_WIDTH, COLOUR_WIDTH], dim=1)
        images = resample(images, geometry(places, self.p, height, width))
        return recolour(images, colour(colours, self.p, grey=channels == 1))

    def observe(self, signs: float, count: int) -> None:
        """Take in the sum of the signs of `count` logits of real images, those of a whole batch.

        A sum of signs is a whole number, the same however a batch is split; a mean would not be. If it is NaN
        (a discriminator that diverges), p stays.
        """
        self._signs += signs
        self._count += count
        self._batches += 1
        if self._batches == INTERVAL:
            r_t = self._signs / self._count  # Eq. 1
            direction = (r_t > self.target) - (r_t < self.target)
            self.p = min(max(self.p + direction * self.step, 0.0), 1.0)
            self._clear()

    def state_dict(self) -> dict[str, Any]:
        """Return p and what has been seen since it was last adjusted, as plain numbers."""
        return {"p": self.p, "signs": self._signs, "count": self._count, "batches": self._batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.p = state["p"]
        self._signs, self._count, self._batches = state["signs"], state["count"], state["batches"]


def resample(images: Tensor, matrix: Tensor) -> Tensor:
    """Take every pixel of [B, C, H, W] from where a matrix [B, 3, 3] leads, in pixels from the centre.

    Bilinear; beyond the centres of its outermost pixels the image goes on as its mirror image.
    """
    _, _, height, width = images.shape
    # grid_sample counts from -1 to 1 between the centres of the outermost pixels.
    unit = torch.tensor([max(width - 1, 1) / 2, max(height - 1, 1) / 2, 1.0], dtype=matrix.dtype)
    theta = (matrix * unit / unit[:, None]).to(images.device, images.dtype)
    x = torch.linspace(-1, 1, width, device=images.device, dtype=images.dtype)
    y = torch.linspace(-1, 1, height, device=images.device, dtype=images.dtype)[:, None]
    # Written out, because a GPU may round the factors of a matrix product.
    across, down, offset = theta[:, :2, :, None, None].unbind(dim=2)
    grid = (across * x + down * y + offset).permute(0, 2, 3, 1)
    moved = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=True)
    return torch.where(_changes(matrix, images), moved, images)


def recolour(images: Tensor, matrix: Tensor) -> Tensor:
    """Map the colours of [B, 3, H, W], or the grey of [B, 1, H, W], by a matrix [B, 4, 4]."""
    linear, offset = matrix[:, :3, :3], matrix[:, :3, 3]
    if images.shape[1] == 1:
        mapped = images * _per_image(linear[:, 0].sum(dim=1), images) + _per_image(offset[:, 0], images)
    else:
        factors = linear.to(images.device, images.dtype)[:, :, :, None, None]
        red, green, blue = (factors[:, :, index] * images[:, index : index + 1] for index in range(3))
        mapped = red + green + blue + offset.to(images.device, images.dtype)[:, :, None, None]
    return torch.where(_changes(matrix, images), mapped, images)


def _changes(matrix: Tensor, images: Tensor) -> Tensor:
    """Return whether each image's matrix is another than the identity, [B, 1, 1, 1]."""
    changes = (matrix != torch.eye(matrix.shape[1], dtype=matrix.dtype)).flatten(1).any(dim=1)
    return changes.to(images.device)[:, None, None, None]


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    """Return one value an image, [B], in the images' type and place, to multiply [B, C, H, W] with."""
    return values.to(images.device, images.dtype)[:, None, None, None]
