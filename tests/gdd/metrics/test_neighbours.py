from __future__ import annotations

from pathlib import Path

import numpy as np
import prdc
import pytest
import torch
from torch import Tensor

from gdd.errors import UserError
from gdd.metrics import neighbours
from gdd.metrics.neighbours import nearest_distance, nearest_ratio, neighbour_metrics


def clouds(dimension: int, real: int = 120, fake: int = 90, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(dimension)
    a = torch.randn(real, dimension, generator=generator)
    b = 0.9 * torch.randn(fake, dimension, generator=generator) + 0.2
    return scale * a, scale * b


def with_copies(dimension: int) -> tuple[Tensor, Tensor]:
    """A generator that makes three images, one of them a training image, and real images that repeat."""
    real, fake = clouds(dimension)
    real[40:60] = real[:20]
    return real, torch.cat([real[:1], fake[:2]])[torch.arange(90) % 3]


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
    assert neighbour_metrics(real, fake)[:2] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("real", "fake"),
    [
        clouds(2),
        clouds(300),
        clouds(300, scale=1e-18),
        clouds(300, scale=1e15),
        with_copies(3),
        with_copies(300),
    ],
    ids=["plane", "space", "tiny", "huge", "copies in space", "copies"],
)
@pytest.mark.parametrize("part", [1, 1000, neighbours.PART])
def test_equals_brute_force(real: Tensor, fake: Tensor, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "PART", part)
    assert neighbour_metrics(real, fake, 3) == pytest.approx(brute_force(real, fake, 3), rel=1e-12)
    nearest = (fake[:, None].double() - real[None].double()).square().sum(dim=2).sqrt().min(dim=1).values
    torch.testing.assert_close(nearest_distance(fake, real), nearest, rtol=1e-12, atol=0)


@pytest.mark.parametrize("k", [1, 5])
def test_agrees_with_the_prdc_package(k: int, capsys: pytest.CaptureFixture[str]) -> None:
    real, fake = clouds(10)
    expected = prdc.compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=k)
    assert neighbour_metrics(real, fake, k)._asdict() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dimension", [3, 300])
def test_the_boundary_counts_and_copies_are_at_zero(dimension: int) -> None:
    real, _ = clouds(dimension)
    metrics = neighbour_metrics(real, real[torch.randperm(120, generator=torch.Generator().manual_seed(0))])
    assert (metrics.precision, metrics.recall, metrics.coverage) == (1, 1, 1)
    # Every point lies in its own ball and, boundary included, each ball holds k others: (k + 1) / k.
    assert metrics.density == pytest.approx(4 / 3)
    assert neighbour_metrics(real, real + 1000) == (0, 0, 0, 0)
    found = nearest_distance(torch.cat([real[[3, 77]], real[[0]] + 1.0]), real)
    assert found[:2].tolist() == [0, 0]
    assert found[2] > 0


def test_a_point_is_excluded_by_its_row_not_by_its_distance() -> None:
    base = torch.tensor([[0.0], [0.0], [1.0], [4.0]])
    assert nearest_distance(base, base, exclude_self=True).tolist() == [0, 0, 1, 3]
    # Four equal points have radius 0, and a fake on them is inside because the boundary counts.
    fake = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    assert neighbour_metrics(torch.zeros(4, 2), fake)[:2] == (0.25, 1.0)


def test_copies_show() -> None:
    real, fake = clouds(8)
    assert nearest_ratio(real, fake) == pytest.approx(1, abs=0.2)
    assert nearest_ratio(real, real[:50]) == 0
    assert nearest_ratio(torch.ones(9, 8), fake) is None


def test_bad_input_is_refused() -> None:
    real, fake = clouds(3)
    with pytest.raises(UserError, match="3 generated images are too few for 3"):
        neighbour_metrics(real, fake[:3])
    with pytest.raises(UserError, match="cannot be compared"):
        neighbour_metrics(real, fake[:, :2])
    fake[5, 1] = torch.nan
    with pytest.raises(UserError, match="NaN or infinity"):
        neighbour_metrics(real, fake)
    with pytest.raises(UserError, match="too few"):
        nearest_distance(real[:1], real[:1], exclude_self=True)
