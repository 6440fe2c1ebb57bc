"""DiffAugment and ADA: what each transformation does, how often, and how ADA's probability moves."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gdd.adversary.augmentation import (
    COLOUR_WIDTH,
    EYE,
    GEOMETRY_WIDTH,
    AdaptiveAugment,
    Augmentation,
    DiffAugment,
    build_augmentation,
    color,
    colour,
    cutout,
    geometry,
    recolour,
    resample,
    shift,
    translation,
)
from gdd.config.recipe import Augment


def adaptive(p: float) -> AdaptiveAugment:
    augmentation = AdaptiveAugment(64)
    augmentation.p = p
    return augmentation


def random_images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 2 - 1


def uniform(count: int, width: int) -> Tensor:
    return torch.rand(count, width, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


# --- what both have in common ---------------------------------------------------------------------------

KINDS = pytest.mark.parametrize("augmentation", [DiffAugment(), adaptive(0.7)], ids=["diffaugment", "ada"])


@KINDS
def test_shape_and_type_stay_and_gradients_are_the_finite_differences(augmentation: Augmentation) -> None:
    for shape in ((4, 3, 8, 8), (3, 1, 8, 8), (2, 3, 6, 10), (1, 3, 1, 1)):
        given, numbers = random_images(*shape).float(), uniform(shape[0], augmentation.width)
        changed = augmentation.apply(given, numbers)
        assert (changed.shape, changed.dtype) == (shape, torch.float32)
        assert changed.isfinite().all()
    given, numbers = random_images(5, 3, 4, 6).requires_grad_(True), uniform(5, augmentation.width)
    assert torch.autograd.gradcheck(lambda x: augmentation.apply(x, numbers), (given,), fast_mode=True)


@KINDS
def test_an_image_is_changed_by_its_own_numbers_alone(augmentation: Augmentation) -> None:
    given, numbers = random_images(12, 3, 8, 8).float(), uniform(12, augmentation.width)
    together = augmentation.apply(given, numbers)
    pieces = [augmentation.apply(given[a:b], numbers[a:b]) for a, b in ((0, 5), (5, 6), (6, 12))]
    assert torch.equal(torch.cat(pieces), together)
    same = augmentation.apply(given[:1].expand(12, -1, -1, -1), numbers)
    assert all(not torch.equal(same[i], same[j]) for i in range(12) for j in range(i))


@KINDS
def test_grey_images_are_rgb_images_of_equal_channels(augmentation: Augmentation) -> None:
    grey, numbers = random_images(32, 1, 8, 8), uniform(32, augmentation.width)
    three = augmentation.apply(grey.expand(-1, 3, -1, -1), numbers)
    torch.testing.assert_close(augmentation.apply(grey, numbers).expand_as(three), three)


def test_a_recipe_builds_its_augmentation() -> None:
    assert build_augmentation(Augment(), 64) is None
    chosen = build_augmentation(Augment(kind="diffaugment", policies=("cutout",)), 64)
    assert isinstance(chosen, DiffAugment)
    assert (chosen.policies, chosen.p, chosen.state_dict()) == (("cutout",), 1, {})
    smaller, images = (
        build_augmentation(Augment(kind="diffaugment", cutout=0.2), 64),
        torch.ones(1, 1, 15, 15),
    )
    assert isinstance(smaller, DiffAugment)
    middle = torch.full((1, 7), 0.5)  # changes nothing but what is hidden
    assert [(net.apply(images, middle) == 0).sum() for net in (DiffAugment(), smaller)] == [64, 9]
    ada = build_augmentation(Augment(kind="ada", target=0.5, speed_kimg=100), 64)
    assert isinstance(ada, AdaptiveAugment)
    assert (ada.target, ada.step, ada.p) == (0.5, pytest.approx(64 * 4 / 100_000), 0)


# --- DiffAugment ----------------------------------------------------------------------------------------


def test_color_ranges() -> None:
    image = random_images(1, 3, 16, 16)
    mean, grey = image.mean(), image.mean(dim=1, keepdim=True)
    for numbers, expected in (
        ((0.5, 0.5, 0.5), image),
        ((0, 0.5, 0.5), image - 0.5),
        ((1, 0.5, 0.5), image + 0.5),
        ((0.5, 0, 0.5), mean + (image - mean) / 2),
        ((0.5, 1, 0.5), mean + (image - mean) * 1.5),
        ((0.5, 0.5, 0), grey.expand_as(image)),
        ((0.5, 0.5, 1), image * 2 - grey),
    ):
        torch.testing.assert_close(color(image, torch.tensor([numbers])), expected)


def test_translation_is_by_whole_pixels_with_zeros() -> None:
    images = random_images(300, 3, 16, 16)
    padded = functional.pad(images, (2, 2, 2, 2))
    moved = translation(images, uniform(300, 2))
    windows = [padded[:, :, y : y + 16, x : x + 16] for x in range(5) for y in range(5)]
    found = torch.stack([(moved == window).flatten(1).all(dim=1) for window in windows])
    assert (found.sum(dim=0) == 1).all()  # an eighth of 16 pixels each way
    assert found.any(dim=1).all()
    # The least number moves to the left and up.
    corner = translation(torch.ones(1, 1, 16, 16), torch.zeros(1, 2))[0, 0]
    assert corner[:14, :14].all()
    assert corner.sum() == 14 * 14


def test_cutout_hides_a_square_of_half_the_size() -> None:
    hidden = cutout(torch.ones(2000, 1, 16, 16), uniform(2000, 2))[:, 0] == 0
    assert hidden.sum(dim=(1, 2)).max() == 64
    rows, columns = hidden.any(dim=2), hidden.any(dim=1)
    assert torch.equal(hidden, rows[:, :, None] & columns[:, None, :])
    assert rows.sum(dim=1).min() == 4  # centred on the edge
    # Its centre is everywhere alike: a pixel far from the edges is hidden by 8 x 8 of 16 x 16 centres.
    assert hidden[:, 7:9, 7:9].float().mean().item() == pytest.approx(1 / 4, abs=0.04)


# --- ADA's transformations ------------------------------------------------------------------------------

# Columns that say whether something happens; the one before, or those after, say how.
GEOMETRY = {
    "flip": 1,
    "turn": 3,
    "whole": 4,
    "size": 8,
    "before": 10,
    "stretch": 12,
    "after": 14,
    "shift": 15,
}
COLOUR = {"brightness": 1, "contrast": 3, "luma": 5, "hue": 7, "saturation": 9}
MANY = 4000


def normal(u: float) -> float:
    return NormalDist().inv_cdf(u)


def turned(point: complex, angle: float) -> complex:
    return point * complex(math.cos(angle), math.sin(angle))


def test_the_geometry_is_the_papers_steps_one_after_the_other() -> None:
    """A point of the image as x + iy, in the order of the paper's Appendix B; the matrix leads back."""
    height, width = 8, 16
    rows, point = uniform(40, GEOMETRY_WIDTH), complex(1.5, -0.5)
    for u, matrix in zip(rows.tolist(), geometry(rows, 1.0, height, width), strict=True):
        x = complex(point.real * (1 - 2 * math.floor(2 * u[0])), point.imag)
        x = turned(x, math.floor(4 * u[2]) * math.pi / 2)
        x += complex(round((u[5] - 0.5) * width / 4), round((u[6] - 0.5) * height / 4))
        x = turned(x * 2 ** (0.2 * normal(u[7])), (2 * u[9] - 1) * math.pi)
        stretch = 2 ** (0.2 * normal(u[11]))
        x = turned(complex(x.real * stretch, x.imag / stretch), (2 * u[13] - 1) * math.pi)
        x += 0.125 * complex(width * normal(u[16]), height * normal(u[17]))
        back = (matrix.numpy() @ [x.real, x.imag, 1.0]).tolist()
        assert back == pytest.approx([point.real, point.imag, 1.0])


def test_the_colours_are_the_papers_steps_one_after_the_other() -> None:
    rows, images = uniform(40, COLOUR_WIDTH), random_images(40, 3, 1, 1)
    found = recolour(images, *colour(rows, 1.0))
    v = np.ones(3) / 3**0.5
    for u, x, result in zip(rows.tolist(), images[:, :, 0, 0].numpy(), found[:, :, 0, 0], strict=True):
        y = (x + 0.2 * normal(u[0])) * 2 ** (0.5 * normal(u[2]))
        y = y - 2 * math.floor(2 * u[4]) * v * (v @ y)
        angle = (2 * u[6] - 1) * math.pi
        y = y * math.cos(angle) + np.cross(v, y) * math.sin(angle) + v * (v @ y) * (1 - math.cos(angle))
        grey = v * (v @ y)
        assert result.tolist() == pytest.approx((grey + (y - grey) * 2 ** normal(u[8])).tolist())


def changed(matrix: Tensor, brightness: Tensor | float = 0.0) -> Tensor:
    return ((matrix != EYE) | (torch.as_tensor(brightness) != 0)).flatten(1).any(dim=1)


def test_images_that_nothing_happens_to_stay_to_the_bit() -> None:
    given, numbers, p = random_images(MANY, 3, 4, 4).float(), uniform(MANY, 28), 0.05
    assert adaptive(0).apply(given, numbers) is given
    same = (adaptive(p).apply(given, numbers) == given).flatten(1).all(dim=1)
    of_geometry, of_colour = numbers.split([GEOMETRY_WIDTH, COLOUR_WIDTH], dim=1)
    assert torch.equal(same, ~(changed(geometry(of_geometry, p, 4, 4)) | changed(*colour(of_colour, p))))
    assert 0.5 < same.float().mean() < 0.75  # 0.95 to the power of the 11 transformations is 0.57


@pytest.mark.parametrize("p", [0.2, 0.6])
def test_every_transformation_happens_with_probability_p(p: float) -> None:
    def share(*columns: int, width: int = GEOMETRY_WIDTH) -> float:
        numbers = torch.full((MANY, width), 0.99, dtype=torch.float64)
        numbers[:, list(columns)] = uniform(MANY, len(columns))
        found = changed(geometry(numbers, p, 8, 8)) if width == 18 else changed(*colour(numbers, p))
        return float(found.float().mean())

    for name, column in GEOMETRY.items():
        one = 1 - math.sqrt(1 - p) if name in ("before", "after") else p
        assert share(column) == pytest.approx(one, abs=0.025), name
    # Rotating before, after, or both is one transformation.
    assert share(GEOMETRY["before"], GEOMETRY["after"]) == pytest.approx(p, abs=0.025)
    for name, column in COLOUR.items():
        assert share(column, width=COLOUR_WIDTH) == pytest.approx(p, abs=0.025), name


@pytest.mark.parametrize("name", ["flip", "turn", "whole"])
def test_flips_turns_and_whole_pixel_moves_keep_every_pixel(name: str) -> None:
    given, numbers = random_images(300, 3, 16, 16).float(), uniform(300, GEOMETRY_WIDTH)
    padded = functional.pad(given, (2, 2, 2, 2), mode="reflect")
    expected = {
        "flip": [given, given.flip(3)],
        "turn": [given.rot90(k, (2, 3)) for k in range(4)],
        "whole": [padded[:, :, y : y + 16, x : x + 16] for x in range(5) for y in range(5)],
    }[name]
    numbers[:, list(GEOMETRY.values())] = 0.99
    numbers[:, GEOMETRY[name]] = 0.0
    moved = resample(given, geometry(numbers, 0.5, 16, 16))
    found = torch.stack([(moved - one).abs().flatten(1).amax(dim=1) < 1e-5 for one in expected])
    assert (found.sum(dim=0) == 1).all()
    assert found.any(dim=1).all()


def test_sampling_is_bilinear() -> None:
    given, half = random_images(1, 3, 8, 8), torch.tensor([[0.5], [0.0]], dtype=torch.float64)
    mirrored = functional.pad(given, (0, 1, 0, 0), mode="reflect")
    torch.testing.assert_close(resample(given, shift(*half)), (mirrored[..., 1:] + mirrored[..., :-1]) / 2)


# --- how strongly ADA augments --------------------------------------------------------------------------


def after(batches: int, signs: float, start: float) -> AdaptiveAugment:
    """Return it after batches of 500 images whose 100 logits have this sum of signs."""
    controller = AdaptiveAugment(500, speed_kimg=100)
    controller.p = start
    for _ in range(batches):
        controller.observe(signs, 100)
    return controller


@pytest.mark.parametrize(
    ("batches", "signs", "start", "expected"),
    [
        (3, 100, 0, 0),
        (4, 100, 0, 0.02),  # 4 x 500 of 100,000 images
        (7, 100, 0, 0.02),
        (8, 100, 0, 0.04),
        (8, 100, 0.99, 1),
        (8, -100, 0.03, 0),
        (4, 61, 0.5, 0.52),  # towards the target of 0.6
        (4, 60, 0.5, 0.5),
        (4, 59, 0.5, 0.48),
        (4, math.nan, 0.5, 0.5),
    ],
)
def test_p_moves_every_four_batches(batches: int, signs: float, start: float, expected: float) -> None:
    assert after(batches, signs, start).p == pytest.approx(expected, abs=1e-12)


def test_the_mean_is_over_all_logits_since_the_last_adjustment() -> None:
    controller = after(4, -100, start=0.5)  # of which nothing counts any more
    for signs, count in ((10, 10), (10, 10), (10, 10), (-90, 90)):
        controller.observe(signs, count)  # -60 of 120 together, though the mean of means is 0.5
    assert controller.p == pytest.approx(0.46)
