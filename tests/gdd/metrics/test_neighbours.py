from __future__ import annotations

from pathlib import Path

import numpy as np
import prdc
import pytest
import torch
from torch import Tensor

from gdd.errors import UserError
from gdd.metrics import neighbours
from gdd.metrics.neighbours import (
    density_coverage,
    nearest_distance,
    neighbour_metrics,
    precision_recall,
    squared_radii,
)


def clouds(dimension: int, real: int = 120, fake: int = 90) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(dimension)
    a = torch.randn(real, dimension, generator=generator)
    b = 0.9 * torch.randn(fake, dimension, generator=generator) + 0.2
    return a, b


def brute_force(real: Tensor, fake: Tensor, k: int) -> tuple[float, float, float, float]:
    """The definitions word for word, from all differences at once."""

    def distances(a: Tensor, b: Tensor) -> Tensor:
        return (a[:, None].double() - b[None].double()).square().sum(dim=2).sqrt()

    real_radius = distances(real, real).sort(dim=1).values[:, k]
    fake_radius = distances(fake, fake).sort(dim=1).values[:, k]
    between = distances(real, fake)
    in_real = between <= real_radius[:, None]
    in_fake = between <= fake_radius[None]
    return (
        in_real.any(dim=0).double().mean().item(),
        in_fake.any(dim=1).double().mean().item(),
        in_real.double().sum(dim=0).mean().item() / k,
        in_real.any(dim=1).double().mean().item(),
    )


def test_precision_and_recall_of_published_features(golden: Path) -> None:
    with np.load(golden / "metrics" / "features.npz") as stored:
        real, fake = torch.from_numpy(stored["real"]), torch.from_numpy(stored["fake"])
        expected = (float(stored["precision"]), float(stored["recall"]))
    assert precision_recall(real, fake) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dimension", [2, 16, 300])  # 300 is beyond the direct differences
@pytest.mark.parametrize("block", [1, 7, 64, 4096])
def test_tiles_equal_brute_force(dimension: int, block: int) -> None:
    real, fake = clouds(dimension, 40, 31) if block == 1 else clouds(dimension)
    assert neighbour_metrics(real, fake, 3, block) == pytest.approx(brute_force(real, fake, 3), rel=1e-12)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_agrees_with_the_prdc_package(k: int, capsys: pytest.CaptureFixture[str]) -> None:
    real, fake = clouds(10)
    expected = prdc.compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=k)
    assert neighbour_metrics(real, fake, k)._asdict() == pytest.approx(expected, rel=1e-12)
    assert precision_recall(real, fake, k) == pytest.approx((expected["precision"], expected["recall"]))
    assert density_coverage(real, fake, k) == pytest.approx((expected["density"], expected["coverage"]))


def test_the_direct_and_the_product_formulation_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = clouds(24)
    real, fake = real + 50.0, fake + 50.0
    direct = neighbour_metrics(real, fake), nearest_distance(fake, real)
    monkeypatch.setattr(neighbours, "DIRECT_DIMENSIONS", 0)
    assert neighbour_metrics(real, fake) == direct[0]
    torch.testing.assert_close(nearest_distance(fake, real), direct[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("dimension", [3, 300])
def test_a_set_against_itself_and_a_far_set(dimension: int) -> None:
    real, _ = clouds(dimension)
    metrics = neighbour_metrics(real, real)
    assert (metrics.precision, metrics.recall, metrics.coverage) == (1, 1, 1)
    # Every point lies in its own ball and, boundary included, each ball holds k others: (k + 1) / k.
    assert metrics.density == pytest.approx(4 / 3)
    assert neighbour_metrics(real, real + 1000) == (0, 0, 0, 0)


@pytest.mark.parametrize("dimension", [3, 300])
def test_copies_are_at_distance_zero(dimension: int) -> None:
    base, _ = clouds(dimension)
    base = base + 5.0
    queries = torch.cat([base[[3, 77]], base[[0]] + 1.0])
    found = nearest_distance(queries, base, block=50)
    assert found.dtype == torch.float64
    assert found[:2].tolist() == [0, 0]
    assert found[2] > 0


def test_a_point_is_excluded_by_its_row_not_by_its_distance() -> None:
    base = torch.tensor([[0.0], [0.0], [1.0], [4.0]])
    for block in (1, 3, 10):
        assert nearest_distance(base, base, exclude_self=True, block=block).tolist() == [0, 0, 1, 3]
    # Four equal points have radius 0, and a fake on them is inside because the boundary counts.
    real = torch.zeros(4, 2)
    fake = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    assert precision_recall(real, fake) == (0.25, 1.0)


def test_bad_input_is_refused() -> None:
    real, fake = clouds(3)
    with pytest.raises(UserError, match="3 generated images are too few for 3"):
        precision_recall(real, fake[:3])
    with pytest.raises(UserError, match="cannot be compared"):
        precision_recall(real, fake[:, :2])
    broken = fake.clone()
    broken[5, 1] = torch.nan
    with pytest.raises(UserError, match="NaN or infinity"):
        precision_recall(real, broken)
    with pytest.raises(UserError, match="too few"):
        nearest_distance(real[:1], real[:1], exclude_self=True)
    with pytest.raises(ValueError, match="one set"):
        nearest_distance(fake, real, exclude_self=True)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 3e7])
def test_kept_radii_change_nothing(scale: float) -> None:
    real, fake = (scale * cloud for cloud in clouds(300, 60, 50))
    fake[:5] = real[:5]  # at the boundary of balls and at their centres
    real[20:23] = real[23]
    squares = squared_radii(real)
    assert squares is not None
    assert squares.shape == (60,)
    assert neighbour_metrics(real, fake, real_squares=squares) == neighbour_metrics(real, fake)
    everywhere = torch.full_like(squares, torch.inf)
    assert neighbour_metrics(real, fake, real_squares=everywhere).precision == 1


def test_radii_that_are_quickly_found_are_not_kept() -> None:
    assert squared_radii(clouds(8)[0]) is None
