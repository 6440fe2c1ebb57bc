from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from gdd.errors import UserError
from gdd.metrics import frechet
from gdd.metrics.frechet import Gaussian, Moments, frechet_distance


def gaussian(features: Tensor, batch: int = 64) -> Gaussian:
    return Moments.of(features.shape[1], features.split(batch)).gaussian()


def features(count: int, dimension: int, seed: int, offset: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    return torch.randn(count, dimension, generator=generator, dtype=torch.float64) @ mixing + offset


def test_frechet_distance_of_published_features(golden: Path) -> None:
    with np.load(golden / "metrics" / "features.npz") as stored:
        real, fake = (gaussian(torch.from_numpy(stored[key])) for key in ("real", "fake"))
        expected = float(stored["fid"])
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(fake, real) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("dimension", "offset"), [(1, 0.0), (5, 0.3), (40, 100.0)])
@pytest.mark.parametrize("precise", [frechet.PRECISE, 0.0], ids=["eigenvalues", "singular values"])
def test_agrees_with_the_matrix_square_root(
    dimension: int, offset: float, precise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = gaussian(features(300, dimension, seed=0))
    b = gaussian(features(250, dimension, seed=1, offset=offset))
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy())
    trace = np.trace(a.covariance.numpy() + b.covariance.numpy() - 2 * np.real(root))
    expected = float((a.mean - b.mean).square().sum() + trace)
    monkeypatch.setattr(frechet, "PRECISE", precise)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_singular_covariances() -> None:
    """Few samples and constant columns: directions without variance add nothing, not even rounding."""
    full, few = features(400, 30, seed=2), features(20, 30, seed=3)
    padding = torch.full((400, 5), 0.25, dtype=torch.float64)
    a, b = gaussian(full), gaussian(few)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)
    padded_a = gaussian(torch.cat([full, padding], dim=1))
    padded_b = gaussian(torch.cat([few, padding[:20]], dim=1))
    assert frechet_distance(padded_a, padded_b) == pytest.approx(frechet_distance(a, b), rel=1e-12)
    root = scipy.linalg.sqrtm(a.covariance.numpy())
    eigenvalues = np.linalg.eigvalsh(root @ b.covariance.numpy() @ root)
    trace = a.covariance.trace() + b.covariance.trace() - 2 * np.sqrt(eigenvalues.clip(min=0)).sum()
    expected = float((a.mean - b.mean).square().sum() + trace)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_equal_sets_are_at_zero() -> None:
    a = gaussian(features(100, 12, seed=4))
    assert 0 <= frechet_distance(a, a) < 1e-10
    constant = gaussian(torch.ones(10, 3))
    assert frechet_distance(constant, constant) == 0


def test_moments_are_numpys_far_from_the_origin_in_any_order_and_parts() -> None:
    data = features(500, 7, seed=5, offset=1e6)
    parts = Moments(7)
    for part in (data[100:], data[:0], data[:100]):
        parts.merge(Moments.of(7, [part]))
    shuffled = data[torch.randperm(500, generator=torch.Generator().manual_seed(0))]
    for result in (gaussian(data, batch=13), gaussian(shuffled, batch=1), parts.gaussian()):
        np.testing.assert_allclose(result.mean.numpy(), data.numpy().mean(axis=0), rtol=1e-14)
        np.testing.assert_allclose(result.covariance.numpy(), np.cov(data.numpy(), rowvar=False), rtol=1e-8)


def test_bad_input_is_refused() -> None:
    with pytest.raises(UserError, match="at least 2 images, got 1"):
        gaussian(torch.ones(1, 3))
    with pytest.raises(UserError, match="20 images hold NaN"):
        gaussian(torch.full((20, 3), torch.nan))
