from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gdd.adversary import affine
from gdd.adversary.adaptive_augment import AdaptiveAugment, recolour, resample
from gdd.adversary.adaptive_matrices import COLOUR_WIDTH, GEOMETRY_WIDTH, colour, geometry
from gdd.adversary.adaptive_probability import AdaptiveProbability
from gdd.errors import UserError
from gdd.randomness import stream

# Columns: whether something happens, then the numbers that say how (`either` reads the latter first).
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
EYE3, EYE4 = affine.identity(3), affine.identity(4)


def images(count: int, channels: int = 3, height: int = 8, width: int = 8) -> Tensor:
    shape = (count, channels, height, width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(2)) * 2 - 1


def adaptive(p: float) -> AdaptiveAugment:
    probability = AdaptiveProbability(64)
    probability.p = p
    return AdaptiveAugment(probability)


def uniform(count: int, width: int) -> Tensor:
    return torch.rand(count, width, generator=stream(0, "test", 0), dtype=torch.float64)


def only(columns: dict[str, int], name: str, count: int, width: int) -> Tensor:
    """Return numbers with which at p = 1/2 this one transformation happens to every image."""
    numbers = uniform(count, width)
    for other, column in columns.items():
        numbers[:, column] = 0.0 if other == name else 0.99
    return numbers


def geometry_of(numbers: Tensor, p: float, height: int = 8, width: int = 8) -> Tensor:
    return geometry(numbers, p, height, width)


def colour_of(numbers: Tensor, p: float) -> Tensor:
    return colour(numbers, p, grey=False)


def changed(matrix: Tensor) -> Tensor:
    return (matrix != affine.identity(matrix.shape[1])).flatten(1).any(dim=1)


def places(name: str, count: int = MANY, height: int = 8, width: int = 16) -> Tensor:
    return geometry(only(GEOMETRY, name, count, GEOMETRY_WIDTH), 0.5, height, width)


def colours(name: str, count: int = MANY) -> Tensor:
    return colour(only(COLOUR, name, count, COLOUR_WIDTH), 0.5, grey=False)


def test_nothing_changes_at_p_zero() -> None:
    given = images(16)
    assert adaptive(0)(given, stream(0, "test", 0)) is given
    # Nor where it computes all the same.
    assert torch.equal(geometry(uniform(16, GEOMETRY_WIDTH), 0.0, 8, 8), EYE3.expand(16, 3, 3))
    assert torch.equal(colour(uniform(16, COLOUR_WIDTH), 0.0, grey=False), EYE4.expand(16, 4, 4))
    assert torch.equal(resample(given, EYE3.expand(16, 3, 3)), given)
    assert torch.equal(recolour(given, EYE4.expand(16, 4, 4)), given)


def test_images_that_nothing_happens_to_stay_to_the_bit() -> None:
    given, p = images(MANY, height=4, width=4), 0.05
    numbers = adaptive(p).draw(MANY, stream(1, "test", 0))
    result = adaptive(p).apply(given, numbers)
    same = (result == given).flatten(1).all(dim=1)
    untouched = ~changed(geometry_of(numbers[:, :GEOMETRY_WIDTH], p, 4, 4))
    untouched &= ~changed(colour_of(numbers[:, GEOMETRY_WIDTH:], p))
    assert torch.equal(same, untouched)
    assert 0.5 < same.float().mean() < 0.75  # 0.95 to the power of the 11 transformations is 0.57


@pytest.mark.parametrize("p", [0.2, 0.6])
def test_every_transformation_happens_with_probability_p(p: float) -> None:
    never = torch.full((MANY, GEOMETRY_WIDTH), 0.99, dtype=torch.float64)
    draws = uniform(MANY, 2)
    for columns, width, matrix in (
        (GEOMETRY, GEOMETRY_WIDTH, geometry_of),
        (COLOUR, COLOUR_WIDTH, colour_of),
    ):
        for name, column in columns.items():
            numbers = never[:, :width].clone()
            numbers[:, column] = draws[:, 0]
            one = 1 - math.sqrt(1 - p) if name in ("before", "after") else p
            assert changed(matrix(numbers, p)).float().mean().item() == pytest.approx(one, abs=0.025), name
    # Rotating before, after, or both is one transformation.
    numbers = never.clone()
    numbers[:, GEOMETRY["before"]], numbers[:, GEOMETRY["after"]] = draws.unbind(dim=1)
    assert changed(geometry_of(numbers, p)).float().mean().item() == pytest.approx(p, abs=0.025)


def test_flips_and_quarter_turns_keep_every_pixel() -> None:
    given = images(200)
    flipped = resample(given, geometry(only(GEOMETRY, "flip", 200, GEOMETRY_WIDTH), 0.5, 8, 8))
    mirrored = (flipped - given.flip(3)).abs().flatten(1).amax(dim=1) < 1e-5
    assert (mirrored | (flipped == given).flatten(1).all(dim=1)).all()
    assert 0.4 < mirrored.float().mean() < 0.6
    turned = resample(given, geometry(only(GEOMETRY, "turn", 200, GEOMETRY_WIDTH), 0.5, 8, 8))
    distances = [(turned - given.rot90(k, (2, 3))).abs().flatten(1).amax(dim=1) for k in range(4)]
    found = torch.stack(distances) < 1e-5
    assert found.any(dim=0).all()
    assert ((found.float().mean(dim=1) - 0.25).abs() < 0.1).all()


def test_whole_pixel_moves_mirror_at_the_edge() -> None:
    given = images(300, height=16, width=24)
    moved = resample(given, geometry(only(GEOMETRY, "whole", 300, GEOMETRY_WIDTH), 0.5, 16, 24))
    padded = functional.pad(given, (3, 3, 2, 2), mode="reflect")
    found = torch.zeros(300, dtype=torch.int64)
    for x in range(7):
        for y in range(5):
            window = padded[:, :, y : y + 16, x : x + 24]
            found += (moved - window).abs().flatten(1).amax(dim=1) < 1e-5
    assert (found == 1).all()  # an eighth of the size at most


def test_statistics_of_the_geometry() -> None:
    size = -places("size")[:, 0, 0].log2()
    assert size.mean().item() == pytest.approx(0, abs=0.01)
    assert size.std().item() == pytest.approx(0.2, rel=0.05)
    stretch = places("stretch")
    torch.testing.assert_close(stretch[:, 0, 0] * stretch[:, 1, 1], torch.ones(MANY).double())
    assert stretch[:, 1, 1].log2().std().item() == pytest.approx(0.2, rel=0.05)
    for name in ("before", "after"):
        turned = places(name)
        angle = torch.atan2(turned[:, 0, 1], turned[:, 0, 0])
        assert angle.std().item() == pytest.approx(math.pi / 3**0.5, rel=0.05)
        torch.testing.assert_close(turned @ turned.mT, EYE3.expand_as(turned))
    moved = places("shift")[:, :2, 2]
    assert moved[:, 0].std().item() == pytest.approx(0.125 * 16, rel=0.05)
    assert moved[:, 1].std().item() == pytest.approx(0.125 * 8, rel=0.05)


def test_a_larger_scale_enlarges_and_a_shift_moves_right_and_down() -> None:
    columns = torch.linspace(-1, 1, 9).expand(1, 1, 9, 9)
    double = resample(columns, affine.scaling(*torch.tensor([[0.5], [0.5]], dtype=torch.float64)))
    torch.testing.assert_close(double, columns / 2)
    numbers = only(GEOMETRY, "size", 1, GEOMETRY_WIDTH)
    numbers[:, 7] = 0.9  # above the median: larger
    assert geometry(numbers, 0.5, 8, 8)[0, 0, 0] < 1
    numbers = only(GEOMETRY, "shift", 1, GEOMETRY_WIDTH)
    numbers[:, 16:] = 0.9
    assert (geometry(numbers, 0.5, 8, 8)[0, :2, 2] < 0).all()


def test_sampling_is_bilinear() -> None:
    given = images(1).double()
    half = affine.shift(*torch.tensor([[0.5], [0.0]], dtype=torch.float64))
    mirrored = functional.pad(given, (0, 1, 0, 0), mode="reflect")
    torch.testing.assert_close(resample(given, half), (mirrored[..., 1:] + mirrored[..., :-1]) / 2)


def test_statistics_of_the_colours() -> None:
    assert colours("brightness")[:, 2, 3].std().item() == pytest.approx(0.2, rel=0.05)
    assert colours("contrast")[:, 1, 1].log2().std().item() == pytest.approx(0.5, rel=0.05)
    flips = changed(colours("luma"))
    assert flips.float().mean().item() == pytest.approx(0.5, abs=0.03)
    spread = torch.tensor([1.0, -1, 0, 0]).double()  # a colour without grey
    assert (colours("saturation") @ spread)[:, 0].log2().std().item() == pytest.approx(1, rel=0.05)
    turned = colours("hue")[:, :3, :3]
    torch.testing.assert_close(turned @ turned.mT, torch.eye(3).double().expand_as(turned))
    angle = ((turned.diagonal(dim1=1, dim2=2).sum(dim=1) - 1) / 2).clamp(-1, 1).acos()
    assert angle.mean().item() == pytest.approx(math.pi / 2, rel=0.05)


def test_hue_saturation_and_luma_as_the_paper_writes_them() -> None:
    v = torch.tensor([1.0, 1, 1, 0], dtype=torch.float64) / 3**0.5
    one = torch.ones(1, dtype=torch.float64)
    torch.testing.assert_close(affine.luma_flip(one)[0], EYE4 - 2 * torch.outer(v, v))
    saturated = affine.saturation(one * 3)[0, :3, :3]
    expected = torch.outer(v, v) + (EYE4 - torch.outer(v, v)) * 3
    torch.testing.assert_close(saturated, expected[:3, :3])
    third = affine.hue_rotation(one * 2 * math.pi / 3)[0]
    torch.testing.assert_close(
        third @ torch.tensor([1.0, 2, 3, 1]).double(), torch.tensor([3.0, 1, 2, 1]).double()
    )
    assert (affine.saturation(one * 3)[0, 3] == EYE4[3]).all()


def test_recolouring_is_the_matrix() -> None:
    given = images(6).double()
    matrix = colour(uniform(6, COLOUR_WIDTH), 1.0, grey=False)
    homogeneous = torch.cat([given, torch.ones_like(given[:, :1])], dim=1)
    expected = torch.einsum("bij,bjhw->bihw", matrix, homogeneous)[:, :3]
    torch.testing.assert_close(recolour(given, matrix), expected)


def test_grey_images_are_rgb_images_of_equal_channels() -> None:
    grey = images(32, channels=1).double()
    alone = adaptive(0.8)(grey, stream(4, "test", 0))
    three = adaptive(0.8)(grey.expand(-1, 3, -1, -1), stream(4, "test", 0))
    torch.testing.assert_close(alone.expand_as(three), three)
    # Hue and saturation do not touch them.
    numbers = uniform(32, COLOUR_WIDTH)
    other = torch.cat([numbers[:, :6], uniform(32, COLOUR_WIDTH)[:, :4].flip(0)], dim=1)
    assert torch.equal(colour(numbers, 0.8, grey=True), colour(other, 0.8, grey=True))


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(UserError, match="not 4 channels"):
        adaptive(0)(images(2, channels=4), stream(0, "test", 0))
