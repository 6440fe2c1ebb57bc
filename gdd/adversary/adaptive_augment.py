"""ADA's augmentations (arXiv:2006.06676, Appendix B): pixel blitting, general geometry and colour."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gdd.adversary.adaptive_matrices import COLOUR_WIDTH, GEOMETRY_WIDTH, colour, geometry
from gdd.adversary.adaptive_probability import AdaptiveProbability
from gdd.adversary.affine import identity
from gdd.adversary.augmentation import Augmentation, per_image
from gdd.errors import UserError


class AdaptiveAugment(Augmentation):
    """Each transformation of ADA's `bgc` pipeline with probability p; p = 0 leaves images as they are.

    As in the paper, all geometric transformations of an image become one affine map and all of its colours
    one matrix. Simpler than the paper: it resamples at twice the resolution between two wavelet filters
    (sym6), here the image itself is sampled bilinearly, mirrored beyond its edges. So flips, quarter turns
    and whole-pixel moves alone keep every pixel, all others blur a little and shrinking aliases a little. An
    image that no transformation meets stays as it is, to the bit.

    There is no second derivative: R1 has to be taken of the images themselves.

    Args:
        probability: p and what adapts it.
    """

    width = GEOMETRY_WIDTH + COLOUR_WIDTH

    def __init__(self, probability: AdaptiveProbability) -> None:
        self.probability = probability

    @property
    def p(self) -> float:
        """The probability of each transformation at present."""
        return self.probability.p

    def apply(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Return images [B, C, H, W] in [-1, 1] changed by rows [B, 28]; C is 3, or 1 for grey.

        Raises:
            UserError: there are neither 1 nor 3 channels.
        """
        _, channels, height, width = images.shape
        if channels not in (1, 3):
            raise UserError(
                f"Adaptive augmentation needs grey or RGB images, not {channels} channels; "
                "use DiffAugment or none."
            )
        if self.p == 0:
            return images
        places, colours = numbers.split([GEOMETRY_WIDTH, COLOUR_WIDTH], dim=1)
        images = resample(images, geometry(places, self.p, height, width))
        return recolour(images, colour(colours, self.p, grey=channels == 1))

    def observe(self, signs: float, count: int) -> None:
        """Take in the sum of the signs of `count` logits of real images, those of a whole batch."""
        self.probability.update(signs, count)

    def state_dict(self) -> dict[str, Any]:
        """Return p and what adapts it, as plain numbers."""
        return self.probability.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.probability.load_state_dict(state)


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
        mapped = images * per_image(linear[:, 0].sum(dim=1), images) + per_image(offset[:, 0], images)
    else:
        factors = linear.to(images.device, images.dtype)[:, :, :, None, None]
        red, green, blue = (factors[:, :, index] * images[:, index : index + 1] for index in range(3))
        mapped = red + green + blue + offset.to(images.device, images.dtype)[:, :, None, None]
    return torch.where(_changes(matrix, images), mapped, images)


def _changes(matrix: Tensor, images: Tensor) -> Tensor:
    """Return whether each image's matrix is another than the identity, [B, 1, 1, 1]."""
    changes = (matrix != identity(matrix.shape[1])).flatten(1).any(dim=1)
    return changes.to(images.device)[:, None, None, None]
