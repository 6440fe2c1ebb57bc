"""Random, differentiable augmentation of the discriminator's input: DiffAugment and ADA.

Real images that the discriminator is trained on and generated ones go through it alike. An image's change is
a function of its own row of uniform numbers, so it does not matter how a batch is split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from gdd.config.recipe import AUGMENT_POLICIES, Augment, AugmentPolicy

Number = float | Tensor


class Augmentation:
    """A random change of images; what adapts in training is its state."""

    width: int  # uniform numbers that an image needs
    p: float  # the probability of each transformation at present

    def apply(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Return images [B, C, H, W] in [-1, 1], C 1 or 3, changed by rows [B, width]; not clipped."""
        raise NotImplementedError

    def observe(self, signs: Number, count: Number) -> None:
        """Take in the sum of the signs of `count` logits of real images, those of a whole batch."""

    def state_dict(self) -> dict[str, Any]:
        """Return what changes in training, as plain numbers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""


def build_augmentation(recipe: Augment, batch: int) -> Augmentation | None:
    """Return the augmentation, or None for `kind: none`; the images in a batch decide how fast ADA adapts."""
    if recipe.kind == "diffaugment":
        return DiffAugment(recipe.policies, recipe.cutout)
    if recipe.kind == "ada":
        return AdaptiveAugment(batch, recipe.target, recipe.speed_kimg)
    return None


# --- DiffAugment, arXiv:2006.10738 -----------------------------------------------------------------------


class DiffAugment(Augmentation):
    """The chosen policies, in the order color, translation, cutout, on every image.

    A policy's numbers are its own: choosing another one besides does not change them. Zero (grey) fills what
    is empty.
    """

    width = 7
    p = 1.0

    def __init__(
        self, policies: Sequence[AugmentPolicy] = AUGMENT_POLICIES, cutout_side: float = 0.5
    ) -> None:
        self.policies = policies
        self.cutout_side = cutout_side

    def apply(self, images: Tensor, uniform: Tensor) -> Tensor:
        if "color" in self.policies:
            images = color(images, uniform[:, 0:3])
        if "translation" in self.policies:
            images = translation(images, uniform[:, 3:5])
        if "cutout" in self.policies:
            images = cutout(images, uniform[:, 5:7], self.cutout_side)
        return images


def color(images: Tensor, uniform: Tensor) -> Tensor:
    """Change brightness by [-0.5, 0.5], contrast by [0.5, 1.5], saturation by [0, 2].

    Contrast scales the distance from the image's mean, saturation that from the pixel's mean over the
    channels; so the three may come in any order, and grey images have no saturation to change.
    """
    brightness, contrast, saturation = uniform.to(images)[..., None, None, None].unbind(dim=1)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    grey = images.mean(dim=1, keepdim=True)
    saturated = grey + (images - grey) * (2 * saturation)
    return mean + (saturated - mean) * (0.5 + contrast) + (brightness - 0.5)


def translation(images: Tensor, uniform: Tensor) -> Tensor:
    """Move by whole pixels, up to an eighth of the size in each direction; what comes in is zero."""
    inside = images.new_ones(())
    for axis, column in ((2, 1), (3, 0)):  # y, x
        size = images.shape[axis]
        most = (size + 4) // 8  # an eighth, rounded
        offset = (uniform[:, column] * (2 * most + 1)).floor().long() - most
        source = _along(axis, torch.arange(size) - offset[:, None], images)
        inside = inside * ((source >= 0) & (source < size))
        images = images.gather(axis, source.clamp(0, size - 1).expand_as(images))
    return images * inside


def cutout(images: Tensor, uniform: Tensor, side: float = 0.5) -> Tensor:
    """Set a square to zero whose side is a fraction of the image's.

    Its centre is anywhere in the image, so that a part of it may lie outside (Cutout, arXiv:1708.04552).
    """
    hidden = torch.ones((), dtype=torch.bool, device=images.device)
    for axis, column in ((2, 1), (3, 0)):
        size = images.shape[axis]
        length = int(size * side + 0.5)
        position = torch.arange(size) - (uniform[:, column] * size).floor()[:, None] + length // 2
        hidden = hidden & _along(axis, (position >= 0) & (position < length), images)
    return images * ~hidden


def _along(axis: int, values: Tensor, images: Tensor) -> Tensor:
    """Return values [B, size] to multiply [B, C, H, W] with: one a row (axis 2) or one a column (axis 3)."""
    values = values.to(images.device)
    return values[:, None, :, None] if axis == 2 else values[:, None, None, :]


# --- ADA, arXiv:2006.06676 ---------------------------------------------------------------------------------

INTERVAL = 4  # batches between two adjustments
GEOMETRY_WIDTH, COLOUR_WIDTH = 18, 10  # uniform numbers per image

# Appendix B: standard deviations of the base-2 logarithm of a factor, then plain ones.
SCALE, CONTRAST, SATURATION = 0.2, 0.5, 1.0
BRIGHTNESS = 0.2
TRANSLATION = 0.125  # of the size: the most in whole pixels, the standard deviation in fractions of one

EYE = torch.eye(3, dtype=torch.float64)
GREY = torch.full((3, 3), 1 / 3, dtype=torch.float64)  # v v^T for the axis of grey, v = (1, 1, 1) / sqrt(3)
CROSS = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=torch.float64) / 3**0.5  # v x


class AdaptiveAugment(Augmentation):
    """Each transformation of ADA's `bgc` pipeline (Appendix B) with probability p.

    As in the paper, all geometric transformations of an image become one affine map and all of its colours
    one matrix. Simpler than the paper: it resamples at twice the resolution between two wavelet filters
    (sym6), here the image itself is sampled bilinearly, mirrored beyond its edges. So flips, quarter turns
    and whole-pixel moves alone keep every pixel, all others blur a little and shrinking aliases a little. An
    image that no transformation meets stays as it is, to the bit.

    p is raised while the discriminator overfits and lowered while it does not (Section 3): every four batches
    it goes a step of fixed size towards r_t = E[sign(D(real))] = `target`, the expectation being over all
    logits of real, augmented images since the last adjustment. In `speed_kimg` thousands of images it can go
    from 0 to 1.

    There is no second derivative: R1 has to be taken of the images themselves.
    """

    width = GEOMETRY_WIDTH + COLOUR_WIDTH

    def __init__(self, batch: int, target: float = 0.6, speed_kimg: float = 500.0) -> None:
        self.target = target
        self.step = batch * INTERVAL / (speed_kimg * 1000)
        self.p = 0.0
        self.signs: Number = 0.0  # since the last adjustment; on a GPU until then, for which nothing waits
        self.count: Number = 0.0
        self.batches = 0

    def apply(self, images: Tensor, uniform: Tensor) -> Tensor:
        if self.p == 0:
            return images
        _, _, height, width = images.shape
        of_geometry, of_colour = uniform.split([GEOMETRY_WIDTH, COLOUR_WIDTH], dim=1)
        images = resample(images, geometry(of_geometry, self.p, height, width))
        return recolour(images, *colour(of_colour, self.p))

    def observe(self, signs: Number, count: Number) -> None:
        """Adjust p after every four batches; it stays where `signs` is NaN (a discriminator that diverges).

        A sum of signs is a whole number, the same however a batch is split; a mean would not be.
        """
        self.signs, self.count, self.batches = self.signs + signs, self.count + count, self.batches + 1
        if self.batches == INTERVAL:
            r_t = float(self.signs) / float(self.count)  # Eq. 1
            direction = (r_t > self.target) - (r_t < self.target)
            self.p = min(max(self.p + direction * self.step, 0.0), 1.0)
            self.signs, self.count, self.batches = 0.0, 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        signs, count = float(self.signs), float(self.count)
        return {"p": self.p, "signs": signs, "count": count, "batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.p = state["p"]
        self.signs, self.count, self.batches = state["signs"], state["count"], state["batches"]


def geometry(uniform: Tensor, p: float, height: int, width: int) -> Tensor:
    """Return [B, 3, 3] that leads from a pixel of the result to the place in the image it is taken from.

    In pixels from the image's centre, x to the right and y down. `uniform` is [B, GEOMETRY_WIDTH], float64.
    """
    u = uniform.unbind(dim=1)
    # Pixel blitting: x-flip, quarter turns, whole pixels.
    flip = torch.where(u[1] < p, 1 - 2 * (u[0] * 2).floor(), 1.0)
    quarter = torch.where(u[3] < p, (u[2] * 4).floor() * math.pi / 2, 0.0)
    x = torch.where(u[4] < p, (_within(TRANSLATION, u[5]) * width).round(), 0.0)
    y = torch.where(u[4] < p, (_within(TRANSLATION, u[6]) * height).round(), 0.0)
    # General geometric transformations. A rotation before or after the stretch has probability p together.
    p_rotation = 1 - math.sqrt(1 - p)
    size = torch.where(u[8] < p, _log_normal(SCALE, u[7]), 1.0)
    before = torch.where(u[10] < p_rotation, _within(math.pi, u[9]), 0.0)
    stretch = torch.where(u[12] < p, _log_normal(SCALE, u[11]), 1.0)
    after = torch.where(u[14] < p_rotation, _within(math.pi, u[13]), 0.0)
    x_share = torch.where(u[15] < p, _normal(TRANSLATION, u[16]), 0.0)
    y_share = torch.where(u[15] < p, _normal(TRANSLATION, u[17]), 0.0)
    # The inverse of what happens to the image: the inverse of every step, the first step leftmost.
    blitting = scaling(flip, torch.ones_like(flip)) @ rotation(-quarter) @ shift(-x, -y)
    stretched = rotation(-before) @ scaling(1 / stretch, stretch) @ rotation(-after)
    general = scaling(1 / size, 1 / size) @ stretched @ shift(-x_share * width, -y_share * height)
    return blitting @ general


def colour(uniform: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Return M [B, 3, 3] and b [B, 1, 1] of the map M (c + b) of a pixel's colour c.

    `uniform` is [B, COLOUR_WIDTH], float64.
    """
    u = uniform[:, :, None, None].unbind(dim=1)
    brightness = torch.where(u[1] < p, _normal(BRIGHTNESS, u[0]), 0.0)
    contrast = torch.where(u[3] < p, _log_normal(CONTRAST, u[2]), 1.0)
    flip = torch.where(u[5] < p, (u[4] * 2).floor(), 0.0)
    angle = torch.where(u[7] < p, _within(math.pi, u[6]), 0.0)
    factor = torch.where(u[9] < p, _log_normal(SATURATION, u[8]), 1.0)
    luma_flip = EYE - 2 * flip * GREY  # Householder
    hue_rotation = EYE + angle.sin() * CROSS + (angle.cos() - 1) * (EYE - GREY)  # Rodrigues
    saturation = EYE + (factor - 1) * (EYE - GREY)
    return saturation @ hue_rotation @ luma_flip * contrast, brightness


def _within(limit: float, uniform: Tensor) -> Tensor:
    return -limit + 2 * limit * uniform


def _normal(deviation: float, uniform: Tensor) -> Tensor:
    return torch.special.ndtri(uniform) * deviation


def _log_normal(deviation: float, uniform: Tensor) -> Tensor:
    """Return Lognormal(0, (deviation ln 2)^2)."""
    return torch.exp2(_normal(deviation, uniform))


def scaling(x: Tensor, y: Tensor) -> Tensor:
    """Return [B, 3, 3] that multiplies x and y by factors [B]."""
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], dim=1))


def shift(x: Tensor, y: Tensor) -> Tensor:
    """Return [B, 3, 3] that adds offsets [B] to x and y."""
    matrix = EYE.repeat(len(x), 1, 1)
    matrix[:, 0, 2], matrix[:, 1, 2] = x, y
    return matrix


def rotation(angle: Tensor) -> Tensor:
    """Return [B, 3, 3] that turns x towards y by radians [B]."""
    matrix = EYE.repeat(len(angle), 1, 1)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
    matrix[:, 1, 0], matrix[:, 0, 1] = angle.sin(), -angle.sin()
    return matrix


def resample(images: Tensor, matrix: Tensor) -> Tensor:
    """Take every pixel of [B, C, H, W] from where a matrix [B, 3, 3] leads, in pixels from the centre.

    Bilinear; beyond the centres of its outermost pixels the image goes on as its mirror image.
    """
    _, _, height, width = images.shape
    # grid_sample counts from -1 to 1 between the centres of the outermost pixels.
    unit = torch.tensor([max(width - 1, 1) / 2, max(height - 1, 1) / 2, 1.0], dtype=matrix.dtype)
    theta = (matrix * unit / unit[:, None]).to(images)
    x = torch.linspace(-1, 1, width, dtype=matrix.dtype).to(images)
    y = torch.linspace(-1, 1, height, dtype=matrix.dtype).to(images)[:, None]
    # Written out, because a GPU may round the factors of a matrix product.
    across, down, offset = theta[:, :2, :, None, None].unbind(dim=2)
    grid = (across * x + down * y + offset).permute(0, 2, 3, 1)
    moved = grid_sample(images, grid, padding_mode="reflection", align_corners=True)
    changes = (matrix != EYE).flatten(1).any(dim=1)
    return torch.where(changes.to(images.device)[:, None, None, None], moved, images)


def recolour(images: Tensor, matrix: Tensor, brightness: Tensor) -> Tensor:
    """Map the colours of [B, 3, H, W], or of grey [B, 1, H, W], by `matrix` and `brightness` of `colour`."""
    factors = matrix.to(images)[:, :, :, None, None]
    brighter = (images + brightness.to(images)[:, None]).expand(-1, 3, -1, -1)
    red, green, blue = (factors[:, :, index] * brighter[:, index : index + 1] for index in range(3))
    mapped = (red + green + blue)[:, : images.shape[1]]
    changes = ((matrix != EYE) | (brightness != 0)).flatten(1).any(dim=1)
    return torch.where(changes.to(images.device)[:, None, None, None], mapped, images)
