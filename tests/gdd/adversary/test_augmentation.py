from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gdd.adversary.adaptive_matrices import (
    COLOUR_WIDTH,
    GEOMETRY_WIDTH,
    colour,
    geometry,
    hue_rotation,
    luma_flip,
    saturation,
    scaling,
    shift,
)
from gdd.adversary.augmentation import (
    AdaptiveAugment,
    Augmentation,
    DiffAugment,
    build_augmentation,
    color,
    cutout,
    recolour,
    resample,
    translation,
)
from gdd.config.recipe import Augment
from gdd.randomness import stream


def adaptive(p: float) -> AdaptiveAugment:
    augmentation = AdaptiveAugment(64)
    augmentation.p = p
    return augmentation


def random_images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 2 - 1


def uniform(count: int, width: int) -> Tensor:
    return torch.rand(count, width, generator=stream(0, "test", 0), dtype=torch.float64)


# --- what both have in common ---------------------------------------------------------------------------

KINDS = pytest.mark.parametrize("augmentation", [DiffAugment(), adaptive(0.7)], ids=["diffaugment", "ada"])


@KINDS
@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (3, 1, 8, 8), (2, 3, 6, 10), (1, 3, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_type_stay(augmentation: Augmentation, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    changed = augmentation.apply(random_images(*shape).to(dtype), uniform(shape[0], augmentation.width))
    assert changed.shape == shape
    assert changed.dtype == dtype
    assert changed.isfinite().all()


@KINDS
def test_gradients_are_the_finite_differences(augmentation: Augmentation) -> None:
    given, numbers = random_images(5, 3, 4, 6).requires_grad_(True), uniform(5, augmentation.width)
    assert torch.autograd.gradcheck(lambda x: augmentation.apply(x, numbers), (given,), fast_mode=True)


@KINDS
def test_an_image_is_changed_by_its_own_numbers_alone(augmentation: Augmentation) -> None:
    numbers = augmentation.draw(12, stream(2, "test", 0))
    assert numbers.shape == (12, augmentation.width)
    assert torch.equal(numbers[:7], augmentation.draw(7, stream(2, "test", 0)))
    given = random_images(12, 3, 8, 8).float()
    together = augmentation.apply(given, numbers)
    pieces = [augmentation.apply(given[a:b], numbers[a:b]) for a, b in ((0, 5), (5, 6), (6, 12))]
    assert torch.equal(torch.cat(pieces), together)
    same = augmentation.apply(given[:1].expand(12, -1, -1, -1), numbers)
    assert all(not torch.equal(same[i], same[j]) for i in range(12) for j in range(i))


@pytest.mark.parametrize("augmentation", [DiffAugment(), adaptive(1.0)], ids=["diffaugment", "ada"])
@pytest.mark.parametrize("edge", [0.0, 1 - 2.0**-53])
def test_the_least_and_the_largest_number_do_no_harm(augmentation: Augmentation, edge: float) -> None:
    numbers = torch.full((2, augmentation.width), edge, dtype=torch.float64)
    assert augmentation.apply(random_images(2, 3, 8, 8), numbers).isfinite().all()


def test_a_recipe_builds_its_augmentation() -> None:
    assert build_augmentation(Augment(), 64) is None
    chosen = build_augmentation(Augment(kind="diffaugment", policies=("cutout",)), 64)
    assert isinstance(chosen, DiffAugment)
    assert (chosen.policies, chosen.p, chosen.state_dict()) == ({"cutout"}, 1, {})
    ada = build_augmentation(Augment(kind="ada", target=0.5, speed_kimg=100), 64)
    assert isinstance(ada, AdaptiveAugment)
    assert (ada.target, ada.step, ada.p) == (0.5, pytest.approx(64 * 4 / 100_000), 0)


# --- DiffAugment ----------------------------------------------------------------------------------------

IMAGES = random_images(2000, 3, 16, 16).float()
NUMBERS = uniform(2000, 7)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


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
        torch.testing.assert_close(color(image, row(*numbers)), expected)


def test_grey_images_have_no_saturation() -> None:
    grey, numbers = IMAGES[:8, :1], NUMBERS[:8, :3].clone()
    first = color(grey, numbers)
    numbers[:, 2] = 0.9
    assert torch.equal(color(grey, numbers), first)
    # The same as the RGB image of three equal channels.
    torch.testing.assert_close(color(grey.expand(-1, 3, -1, -1), numbers), first.expand(-1, 3, -1, -1))


def test_translation_is_by_whole_pixels_with_zeros() -> None:
    moved = translation(IMAGES, NUMBERS[:, 3:5])
    seen = set()
    for image, result in zip(IMAGES[:300], moved[:300], strict=True):
        padded = functional.pad(image, (2, 2, 2, 2))
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
    hidden = cutout(torch.ones(2000, 1, 16, 16), NUMBERS[:, 5:7])[:, 0] == 0
    assert hidden.sum(dim=(1, 2)).max() == 64
    rows, columns = hidden.any(dim=2), hidden.any(dim=1)
    assert torch.equal(hidden, rows[:, :, None] & columns[:, None, :])
    assert rows.sum(dim=1).min() == 4  # centred on the edge
    # Its centre is everywhere alike: a pixel far from the edges is hidden by 8 x 8 of 16 x 16 centres.
    assert hidden[:, 7:9, 7:9].float().mean().item() == pytest.approx(1 / 4, abs=0.04)


def test_a_policy_does_not_change_the_others() -> None:
    both = DiffAugment(("cutout", "translation")).apply(IMAGES[:4], NUMBERS[:4])
    moved = DiffAugment(("translation",)).apply(IMAGES[:4], NUMBERS[:4])
    shown = both != 0
    assert torch.equal(both[shown], moved[shown])
    assert DiffAugment(()).apply(IMAGES, NUMBERS) is IMAGES


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
EYE3, EYE4 = torch.eye(3).double(), torch.eye(4).double()


def only(columns: dict[str, int], name: str, count: int, width: int) -> Tensor:
    """Return numbers with which at p = 1/2 this one transformation happens to every image."""
    numbers = uniform(count, width)
    for other, column in columns.items():
        numbers[:, column] = 0.0 if other == name else 0.99
    return numbers


def places(name: str, count: int = MANY, height: int = 8, width: int = 16) -> Tensor:
    return geometry(only(GEOMETRY, name, count, GEOMETRY_WIDTH), 0.5, height, width)


def colours(name: str, count: int = MANY) -> Tensor:
    return colour(only(COLOUR, name, count, COLOUR_WIDTH), 0.5, grey=False)


def changed(matrix: Tensor) -> Tensor:
    return (matrix != torch.eye(matrix.shape[1])).flatten(1).any(dim=1)


def deviation(values: Tensor) -> float:
    return float(values.std())


def test_images_that_nothing_happens_to_stay_to_the_bit() -> None:
    given = random_images(MANY, 3, 4, 4).float()
    assert adaptive(0).apply(given, uniform(MANY, 28)) is given
    p, numbers = 0.05, uniform(MANY, 28)
    same = (adaptive(p).apply(given, numbers) == given).flatten(1).all(dim=1)
    places, colours = numbers.split([GEOMETRY_WIDTH, COLOUR_WIDTH], dim=1)
    touched = changed(geometry(places, p, 4, 4)) | changed(colour(colours, p, grey=False))
    assert torch.equal(same, ~touched)
    assert 0.5 < same.float().mean() < 0.75  # 0.95 to the power of the 11 transformations is 0.57


@pytest.mark.parametrize("p", [0.2, 0.6])
def test_every_transformation_happens_with_probability_p(p: float) -> None:
    draws = uniform(MANY, 2)
    for columns, width in ((GEOMETRY, GEOMETRY_WIDTH), (COLOUR, COLOUR_WIDTH)):
        for name, column in columns.items():
            numbers = torch.full((MANY, width), 0.99, dtype=torch.float64)
            numbers[:, column] = draws[:, 0]
            matrix = geometry(numbers, p, 8, 8) if columns is GEOMETRY else colour(numbers, p, grey=False)
            one = 1 - math.sqrt(1 - p) if name in ("before", "after") else p
            assert changed(matrix).float().mean().item() == pytest.approx(one, abs=0.025), name
    # Rotating before, after, or both is one transformation.
    numbers = torch.full((MANY, GEOMETRY_WIDTH), 0.99, dtype=torch.float64)
    numbers[:, [GEOMETRY["before"], GEOMETRY["after"]]] = draws
    assert changed(geometry(numbers, p, 8, 8)).float().mean().item() == pytest.approx(p, abs=0.025)


def test_flips_and_quarter_turns_keep_every_pixel() -> None:
    given = random_images(200, 3, 8, 8).float()
    flipped = resample(given, places("flip", 200, 8, 8))
    mirrored = (flipped - given.flip(3)).abs().flatten(1).amax(dim=1) < 1e-5
    assert (mirrored | (flipped == given).flatten(1).all(dim=1)).all()
    assert 0.4 < mirrored.float().mean() < 0.6
    turned = resample(given, places("turn", 200, 8, 8))
    distances = [(turned - given.rot90(k, (2, 3))).abs().flatten(1).amax(dim=1) for k in range(4)]
    found = torch.stack(distances) < 1e-5
    assert found.any(dim=0).all()
    assert ((found.float().mean(dim=1) - 0.25).abs() < 0.1).all()


def test_whole_pixel_moves_mirror_at_the_edge() -> None:
    given = random_images(300, 3, 16, 24).float()
    moved = resample(given, places("whole", 300, 16, 24))
    padded = functional.pad(given, (3, 3, 2, 2), mode="reflect")
    windows = [padded[:, :, y : y + 16, x : x + 24] for x in range(7) for y in range(5)]
    found = [(moved - window).abs().flatten(1).amax(dim=1) < 1e-5 for window in windows]
    assert (torch.stack(found).sum(dim=0) == 1).all()  # an eighth of the size at most


def test_statistics_of_the_geometry() -> None:
    size = -places("size")[:, 0, 0].log2()
    assert size.mean().item() == pytest.approx(0, abs=0.01)
    assert deviation(size) == pytest.approx(0.2, rel=0.05)
    stretch = places("stretch")
    torch.testing.assert_close(stretch[:, 0, 0] * stretch[:, 1, 1], torch.ones(MANY).double())
    assert deviation(stretch[:, 1, 1].log2()) == pytest.approx(0.2, rel=0.05)
    for name in ("before", "after"):
        turned = places(name)
        angle = torch.atan2(turned[:, 0, 1], turned[:, 0, 0])
        assert deviation(angle) == pytest.approx(math.pi / 3**0.5, rel=0.05)
        torch.testing.assert_close(turned @ turned.mT, EYE3.expand_as(turned))
    moved = places("shift")[:, :2, 2]
    assert deviation(moved[:, 0]) == pytest.approx(0.125 * 16, rel=0.05)
    assert deviation(moved[:, 1]) == pytest.approx(0.125 * 8, rel=0.05)


def test_a_larger_scale_enlarges_and_a_shift_moves_right_and_down() -> None:
    columns = torch.linspace(-1, 1, 9).expand(1, 1, 9, 9)
    double = resample(columns, scaling(*torch.tensor([[0.5], [0.5]], dtype=torch.float64)))
    torch.testing.assert_close(double, columns / 2)
    numbers = only(GEOMETRY, "size", 1, GEOMETRY_WIDTH)
    numbers[:, 7] = 0.9  # above the median: larger
    assert geometry(numbers, 0.5, 8, 8)[0, 0, 0] < 1
    numbers = only(GEOMETRY, "shift", 1, GEOMETRY_WIDTH)
    numbers[:, 16:] = 0.9
    assert (geometry(numbers, 0.5, 8, 8)[0, :2, 2] < 0).all()


def test_sampling_is_bilinear() -> None:
    given = random_images(1, 3, 8, 8)
    half = shift(*torch.tensor([[0.5], [0.0]], dtype=torch.float64))
    mirrored = functional.pad(given, (0, 1, 0, 0), mode="reflect")
    torch.testing.assert_close(resample(given, half), (mirrored[..., 1:] + mirrored[..., :-1]) / 2)


def test_statistics_of_the_colours() -> None:
    assert deviation(colours("brightness")[:, 2, 3]) == pytest.approx(0.2, rel=0.05)
    assert deviation(colours("contrast")[:, 1, 1].log2()) == pytest.approx(0.5, rel=0.05)
    assert changed(colours("luma")).float().mean().item() == pytest.approx(0.5, abs=0.03)
    spread = torch.tensor([1.0, -1, 0, 0]).double()  # a colour without grey
    assert deviation((colours("saturation") @ spread)[:, 0].log2()) == pytest.approx(1, rel=0.05)
    turned = colours("hue")[:, :3, :3]
    torch.testing.assert_close(turned @ turned.mT, EYE3.expand_as(turned))
    angle = ((turned.diagonal(dim1=1, dim2=2).sum(dim=1) - 1) / 2).clamp(-1, 1).acos()
    assert angle.mean().item() == pytest.approx(math.pi / 2, rel=0.05)


def test_hue_saturation_and_luma_as_the_paper_writes_them() -> None:
    v = torch.tensor([1.0, 1, 1, 0], dtype=torch.float64) / 3**0.5
    one = torch.ones(1, dtype=torch.float64)
    torch.testing.assert_close(luma_flip(one)[0], EYE4 - 2 * torch.outer(v, v))
    expected = torch.outer(v, v) + (EYE4 - torch.outer(v, v)) * 3
    torch.testing.assert_close(saturation(one * 3)[0, :3, :3], expected[:3, :3])
    third = hue_rotation(one * 2 * math.pi / 3)[0]
    torch.testing.assert_close(
        third @ torch.tensor([1.0, 2, 3, 1]).double(), torch.tensor([3.0, 1, 2, 1]).double()
    )
    assert (saturation(one * 3)[0, 3] == EYE4[3]).all()


def test_recolouring_is_the_matrix() -> None:
    given = random_images(6, 3, 8, 8)
    matrix = colour(uniform(6, COLOUR_WIDTH), 1.0, grey=False)
    homogeneous = torch.cat([given, torch.ones_like(given[:, :1])], dim=1)
    expected = torch.einsum("bij,bjhw->bihw", matrix, homogeneous)[:, :3]
    torch.testing.assert_close(recolour(given, matrix), expected)


def test_grey_images_are_rgb_images_of_equal_channels() -> None:
    grey, numbers = random_images(32, 1, 8, 8), uniform(32, 28)
    alone = adaptive(0.8).apply(grey, numbers)
    three = adaptive(0.8).apply(grey.expand(-1, 3, -1, -1), numbers)
    torch.testing.assert_close(alone.expand_as(three), three)


# --- how strongly ADA augments --------------------------------------------------------------------------


def after(batches: int, signs: float, start: float = 0.0) -> AdaptiveAugment:
    """Return it after batches of 500 images whose 100 logits have this sum of signs."""
    controller = AdaptiveAugment(500, speed_kimg=100)
    controller.p = start
    for _ in range(batches):
        controller.observe(signs, 100)
    return controller


def test_it_moves_every_four_batches_by_their_images_and_stays_within_0_and_1() -> None:
    assert after(3, 100).p == 0
    assert after(4, 100).p == pytest.approx(0.02)  # 4 x 500 of 100,000 images
    assert after(7, 100).p == after(4, 100).p
    assert after(8, 100).p == pytest.approx(0.04)
    assert after(8, 100, start=0.99).p == 1
    assert after(8, -100, start=0.03).p == 0


@pytest.mark.parametrize(("signs", "direction"), [(61, 1), (60, 0), (59, -1), (-100, -1), (math.nan, 0)])
def test_it_goes_towards_the_target(signs: float, direction: int) -> None:
    controller = after(4, signs, start=0.5)
    assert controller.p == pytest.approx(0.5 + 0.02 * direction)
    for _ in range(4):  # nothing of before counts
        controller.observe(100, 100)
    assert controller.p == pytest.approx(0.52 + 0.02 * direction)


def test_the_mean_is_over_all_logits_since_the_last_adjustment() -> None:
    controller = AdaptiveAugment(500, speed_kimg=100)
    for signs, count in ((10, 10), (10, 10), (10, 10), (-90, 90)):
        controller.observe(signs, count)  # -60 of 120 together, though the mean of means is 0.5
    assert controller.p == 0


def test_state_goes_on_in_the_middle_of_an_interval() -> None:
    before, resumed = after(6, 100), AdaptiveAugment(500, speed_kimg=100)
    resumed.load_state_dict(before.state_dict())
    for controller in (before, resumed):
        controller.observe(-100, 100)
        assert controller.p == pytest.approx(0.02)
        controller.observe(100, 100)
    assert resumed.state_dict() == before.state_dict()
