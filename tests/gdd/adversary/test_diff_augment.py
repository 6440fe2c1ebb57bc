from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gdd.adversary.diff_augment import CUTOUT, TRANSLATION, DiffAugment, color, cutout, translation
from gdd.randomness import stream

IMAGES = torch.rand(2000, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
NUMBERS = DiffAugment().draw(2000, stream(0, "test", 0))


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_no_policy_and_the_middle_of_color_change_nothing() -> None:
    assert DiffAugment(())(IMAGES, stream(0, "test", 0)) is IMAGES
    middle = color(IMAGES[:4], row(0.5, 0.5, 0.5).expand(4, 3))
    torch.testing.assert_close(middle, IMAGES[:4])


def test_color_ranges() -> None:
    image = IMAGES[:1].double()
    mean, grey = image.mean(), image.mean(dim=1, keepdim=True)
    torch.testing.assert_close(color(image, row(0, 0.5, 0.5)), image - 0.5)
    torch.testing.assert_close(color(image, row(1, 0.5, 0.5)), image + 0.5)
    torch.testing.assert_close(color(image, row(0.5, 0, 0.5)), mean + (image - mean) / 2)
    torch.testing.assert_close(color(image, row(0.5, 1, 0.5)), mean + (image - mean) * 1.5)
    torch.testing.assert_close(color(image, row(0.5, 0.5, 0)), grey.expand_as(image))
    torch.testing.assert_close(color(image, row(0.5, 0.5, 1)), image * 2 - grey)


def test_statistics_of_color() -> None:
    changed = color(IMAGES, NUMBERS[:, :3])
    moved = (changed - IMAGES).mean(dim=(1, 2, 3))  # contrast and saturation keep an image's mean
    assert moved.abs().max() <= 0.5 + 1e-5
    assert abs(moved.mean().item()) < 0.02
    assert moved.std().item() == pytest.approx(12**-0.5, rel=0.05)  # of a uniform variable


def test_grey_images_have_no_saturation() -> None:
    grey = IMAGES[:8, :1]
    numbers = NUMBERS[:8, :3].clone()
    first = color(grey, numbers)
    numbers[:, 2] = 0.9
    assert torch.equal(color(grey, numbers), first)
    # The same as the RGB image of three equal channels.
    torch.testing.assert_close(color(grey.expand(-1, 3, -1, -1), numbers), first.expand(-1, 3, -1, -1))


def test_translation_is_by_whole_pixels_with_zeros() -> None:
    moved = translation(IMAGES, NUMBERS[:, TRANSLATION])
    seen = set()
    for image, result in zip(IMAGES[:300], moved[:300], strict=True):
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
        found = [
            (dx, dy)
            for dx in range(-2, 3)
            for dy in range(-2, 3)
            if torch.equal(result, padded[:, 2 - dy : 18 - dy, 2 - dx : 18 - dx])
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) == 25  # an eighth of 16 pixels each way
    # The least number moves to the left and up.
    corner = translation(torch.ones(1, 1, 16, 16), row(0, 0))[0, 0]
    assert corner[:14, :14].all()
    assert corner.sum() == 14 * 14


def test_cutout_hides_a_square_of_half_the_size() -> None:
    hidden = cutout(torch.ones(2000, 1, 16, 16), NUMBERS[:, CUTOUT])[:, 0] == 0
    assert hidden.sum(dim=(1, 2)).max() == 64
    rows, columns = hidden.any(dim=2), hidden.any(dim=1)
    assert torch.equal(hidden, rows[:, :, None] & columns[:, None, :])
    assert rows.sum(dim=1).min() == 4  # centred on the edge
    # Its centre is everywhere alike: a pixel far from the edges is hidden by 8 x 8 of 16 x 16 centres.
    assert hidden[:, 7:9, 7:9].float().mean().item() == pytest.approx(1 / 4, abs=0.04)


def test_a_policy_does_not_change_the_others() -> None:
    both = DiffAugment(("translation", "cutout"))(IMAGES[:4], stream(0, "test", 0))
    moved = DiffAugment(("translation",))(IMAGES[:4], stream(0, "test", 0))
    shown = both != 0
    assert torch.equal(both[shown], moved[shown])
    assert torch.equal(both, DiffAugment(("cutout", "translation"))(IMAGES[:4], stream(0, "test", 0)))
