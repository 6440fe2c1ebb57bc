"""Precision, recall, density, coverage, nearest neighbours and KID, by their definitions and by other packages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid import fid as cleanfid
from torch import Tensor

from gdd.errors import UserError
from gdd.metrics import feature_sets
from gdd.metrics.feature_sets import kernel_distance, nearest_ratio, neighbour_metrics


def clouds(dimension: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(dimension)
    real = torch.randn(60, dimension, generator=generator)
    fake = 0.9 * torch.randn(45, dimension, generator=generator) + 0.2
    return scale * real, scale * fake


def with_copies(dimension: int) -> tuple[Tensor, Tensor]:
    """A generator that makes three images, one of them a training image, and real images that repeat."""
    real, fake = clouds(dimension)
    real[50:] = real[:10]
    return real, torch.cat([real[:1], fake[:2]])[torch.arange(45) % 3]


def distances(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, None].double() - b[None].double()).square().sum(dim=2).sqrt()


def by_definition(real: Tensor, fake: Tensor, k: int) -> tuple[float, ...]:
    """The definitions word for word, from all differences at once."""
    real_radius, fake_radius = (distances(a, a).sort(dim=1).values[:, k] for a in (real, fake))
    between = distances(real, fake)
    in_real, in_fake = between <= real_radius[:, None], between <= fake_radius[None]
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


CASES = {
    "plane": clouds(2),
    "space": clouds(300),
    "tiny": clouds(300, scale=1e-18),
    "huge": clouds(300, scale=1e15),
    "copies": with_copies(3),
    "copies in space": with_copies(300),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("part", [1, feature_sets.PART])
def test_neighbours_are_those_of_the_definitions(
    case: str, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, fake = CASES[case]
    monkeypatch.setattr(feature_sets, "PART", part)
    assert neighbour_metrics(real, fake, 3) == pytest.approx(by_definition(real, fake, 3), rel=1e-12)
    own = distances(real, real).fill_diagonal_(torch.inf).min(dim=1).values.quantile(0.5)
    ratio = distances(fake, real).min(dim=1).values.quantile(0.5) / own
    assert nearest_ratio(real, fake) == pytest.approx(float(ratio), rel=1e-12)


def test_agrees_with_the_prdc_package(capsys: pytest.CaptureFixture[str]) -> None:
    import prdc  # brings the whole of scikit-learn

    real, fake = clouds(10)
    for k in (1, 5):
        expected = prdc.compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=k)
        assert neighbour_metrics(real, fake, k)._asdict() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dimension", [3, 300])
def test_the_boundary_counts_and_copies_are_at_zero(dimension: int) -> None:
    real, _ = clouds(dimension)
    metrics = neighbour_metrics(real, real.flip(0))
    # Every point lies in its own ball and, boundary included, each ball holds k others: (k + 1) / k.
    assert metrics == pytest.approx((1, 1, 4 / 3, 1))
    assert neighbour_metrics(real, real + 1000) == (0, 0, 0, 0)
    assert nearest_ratio(real, real[:50]) == 0
    # Four equal points have radius 0, and a fake on them is inside because the boundary counts.
    fake = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    assert neighbour_metrics(torch.zeros(4, 2), fake)[:2] == (0.25, 1.0)
    assert nearest_ratio(torch.ones(9, 2), fake) is None


def test_kid_by_hand_over_all_pairs() -> None:
    real, fake = (points[:5].double() for points in clouds(3))

    def kernel(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    pairs = [(i, j) for i in range(5) for j in range(5)]
    within = sum(kernel(of[i], of[j]) for of in (real, fake) for i, j in pairs if i != j)
    between = sum(kernel(real[i], fake[j]) for i, j in pairs)
    # A subset of everything is everything, in another order.
    assert kernel_distance(real, fake, subsets=3) == pytest.approx(within / 20 - 2 * between / 25, rel=1e-12)


def test_kid_is_clean_fids_for_the_same_seed_and_leaves_the_global_state_alone() -> None:
    real, fake = (points.double() for points in clouds(6))
    np.random.seed(7)  # noqa: NPY002
    theirs = cleanfid.kernel_distance(real.numpy(), fake.numpy(), num_subsets=8, max_subset_size=20)
    np.random.seed(3)  # noqa: NPY002
    assert kernel_distance(real, fake, subsets=8, subset_size=20, seed=7) == pytest.approx(theirs, rel=1e-12)
    assert kernel_distance(real, fake, subsets=8, subset_size=20, seed=8) != pytest.approx(theirs, rel=1e-4)
    assert np.random.random() == np.random.RandomState(3).random()  # noqa: NPY002


@pytest.mark.parametrize(
    ("metric", "real", "fake", "sentence"),
    [
        (neighbour_metrics, (9, 3), (3, 3), "3 generated images are too few for 3"),
        (neighbour_metrics, (9, 3), (9, 2), r"\[9, 3\] and \[9, 2\] cannot be compared"),
        (nearest_ratio, (1, 3), (9, 3), "too few"),
        (kernel_distance, (1, 3), (9, 3), "at least 2 images of either kind, got 1 and 9"),
    ],
)
def test_bad_input_is_refused(metric, real, fake, sentence) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=sentence):
        metric(torch.ones(real), torch.ones(fake))
    with pytest.raises(UserError, match="NaN or infinity"):
        metric(torch.ones(9, 3), torch.full((9, 3), torch.nan))
