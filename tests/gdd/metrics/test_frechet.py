from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from gdd.errors import UserError
from gdd.metrics import frechet
from gdd.metrics.frechet import Gaussian, Moments, frechet_distance, require_enough_samples


def gaussian(features: Tensor, batch: int = 64) -> Gaussian:
    moments = Moments(features.shape[1])
    for part in features.split(batch):
        moments.update(part)
    return moments.gaussian()


def features(count: int, dimension: int, seed: int, offset: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    return torch.randn(count, dimension, generator=generator, dtype=torch.float64) @ mixing + offset


def by_sqrtm(a: Gaussian, b: Gaussian) -> float:
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy())
    difference = (a.mean - b.mean).numpy()
    trace = np.trace(a.covariance.numpy() + b.covariance.numpy() - 2 * np.real(root))
    return float(difference @ difference + trace)


def test_frechet_distance_of_published_features(golden: Path) -> None:
    with np.load(golden / "metrics" / "features.npz") as stored:
        real, fake = (gaussian(torch.from_numpy(stored[key])) for key in ("real", "fake"))
        expected = float(stored["fid"])
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(fake, real) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("dimension", "offset"), [(1, 0.0), (5, 0.3), (40, 100.0)])
def test_agrees_with_the_matrix_square_root(dimension: int, offset: float) -> None:
    a = gaussian(features(300, dimension, seed=0))
    b = gaussian(features(250, dimension, seed=1, offset=offset))
    assert frechet_distance(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-6)


def test_known_value_of_commuting_covariances() -> None:
    a = Gaussian(torch.zeros(2, dtype=torch.float64), torch.diag(torch.tensor([4.0, 9.0]).double()), 100)
    b = Gaussian(torch.ones(2, dtype=torch.float64), torch.diag(torch.tensor([1.0, 1.0]).double()), 100)
    # |(1, 1)|^2 + (2 - 1)^2 + (3 - 1)^2
    assert frechet_distance(a, b) == pytest.approx(7.0, rel=1e-14)


def test_singular_covariances() -> None:
    """Few samples and constant columns: directions without variance add nothing, not even rounding."""
    full = features(400, 30, seed=2)
    few = features(20, 30, seed=3)
    padding = torch.full((400, 5), 0.25, dtype=torch.float64)
    a, b = gaussian(full), gaussian(few)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)
    padded_a = gaussian(torch.cat([full, padding], dim=1))
    padded_b = gaussian(torch.cat([few, padding[:20]], dim=1))
    assert frechet_distance(padded_a, padded_b) == pytest.approx(frechet_distance(a, b), rel=1e-12)
    root = scipy.linalg.sqrtm(a.covariance.numpy())
    eigenvalues = np.linalg.eigvalsh(root @ b.covariance.numpy() @ root)
    offset = (a.mean - b.mean).square().sum()
    trace = a.covariance.trace() + b.covariance.trace() - 2 * np.sqrt(eigenvalues.clip(min=0)).sum()
    assert frechet_distance(a, b) == pytest.approx(float(offset + trace), rel=1e-6)


def test_pixels_that_vary_in_one_set_only_leave_the_order_irrelevant() -> None:
    generator = torch.Generator().manual_seed(9)
    a = torch.randint(0, 17, (200, 20), generator=generator).double() / 8 - 1
    b = torch.randint(0, 17, (200, 20), generator=generator).double() / 8 - 1
    a[:, 15:] = b[:, :5] = -1
    expected = frechet_distance(gaussian(a), gaussian(b))
    for batch in (1, 17, 200):
        shuffled = a[torch.randperm(200, generator=generator)]
        assert frechet_distance(gaussian(shuffled, batch), gaussian(b)) == pytest.approx(expected, rel=1e-11)


def test_equal_sets_are_at_zero() -> None:
    a = gaussian(features(100, 12, seed=4))
    assert 0 <= frechet_distance(a, a) < 1e-10
    constant = gaussian(torch.ones(10, 3))
    assert frechet_distance(constant, constant) == 0


def test_moments_equal_numpy_far_from_the_origin() -> None:
    data = features(500, 7, seed=5, offset=1e6)
    result = gaussian(data, batch=13)
    assert result.count == 500
    np.testing.assert_allclose(result.mean.numpy(), data.numpy().mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(result.covariance.numpy(), np.cov(data.numpy(), rowvar=False), rtol=1e-8)


def test_order_batch_size_and_merging_change_rounding_only() -> None:
    data = features(600, 16, seed=6, offset=3.0)
    other = gaussian(features(300, 16, seed=7))
    once = gaussian(data, batch=600)
    expected = frechet_distance(once, other)
    shuffled = gaussian(data[torch.randperm(600, generator=torch.Generator().manual_seed(0))], batch=1)
    merged, left, right = Moments(16), Moments(16), Moments(16)
    left.update(data[:100])
    right.update(data[100:])
    right.update(data[:0])
    for part in (right, Moments(16), left):
        merged.merge(part)
    for result in (shuffled, merged.gaussian()):
        torch.testing.assert_close(result.mean, once.mean, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(result.covariance, once.covariance, rtol=1e-12, atol=1e-12)
        assert frechet_distance(result, other) == pytest.approx(expected, rel=1e-9)


def test_float32_features_are_accumulated_in_float64() -> None:
    data = features(1000, 3, seed=8, offset=1e4).float()
    expected = np.cov(data.double().numpy(), rowvar=False)
    np.testing.assert_allclose(gaussian(data, batch=10).covariance.numpy(), expected, rtol=1e-10)


def test_too_few_samples_and_nan_are_refused() -> None:
    with pytest.raises(UserError, match=r"2048 images are too few .* at least 2049"):
        require_enough_samples(2048, 2048)
    require_enough_samples(2049, 2048)
    with pytest.raises(UserError, match="at least 2 images"):
        gaussian(torch.zeros(1, 4))
    with pytest.raises(UserError, match="NaN or infinity"):
        gaussian(torch.tensor([[0.0], [torch.nan], [1.0]]))
    with pytest.raises(UserError, match="3 and 4 features"):
        frechet_distance(gaussian(torch.rand(9, 3)), gaussian(torch.rand(9, 4)))
    broken = Gaussian(torch.tensor([torch.inf]), torch.ones(1, 1), 9)
    with pytest.raises(UserError, match="undefined"):
        frechet_distance(broken, gaussian(torch.rand(9, 1)))
    with pytest.raises(ValueError, match="expected features"):
        Moments(3).update(torch.zeros(2, 4))


@pytest.mark.parametrize("decay", [0, -1, -2])
def test_both_ways_to_the_trace_agree(decay: float) -> None:
    """Over several strips, with mixings at random and variances down to a ten-thousandth of the largest."""
    scale = torch.logspace(0, decay, 300, dtype=torch.float64)
    a, b = (gaussian(features(700, 300, seed) * scale) for seed in (4, 5))
    quick, error = frechet._trace_of_root(a.covariance, b.covariance)
    slow = float(frechet._trace_of_singular_root(a.covariance, b.covariance))
    assert quick == pytest.approx(slow, rel=1e-12)
    assert 2 * abs(quick - slow) < error < frechet.PRECISE * frechet_distance(a, b)


def test_the_slower_way_is_taken_where_rounding_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    plain = frechet._trace_of_singular_root

    def counted(a: Tensor, b: Tensor) -> Tensor:
        calls.append(1)
        return plain(a, b)

    monkeypatch.setattr(frechet, "_trace_of_singular_root", counted)
    full, few = gaussian(features(400, 30, seed=2)), gaussian(features(20, 30, seed=3))
    frechet_distance(full, gaussian(features(400, 30, seed=6)))
    assert not calls
    for a, b in ((full, few), (few, full), (full, full)):
        frechet_distance(a, b)
    assert len(calls) == 3


def test_vectors_wait_for_others_by_value() -> None:
    plain, reused = Moments(40), Moments(40)
    buffer = torch.empty(7, 40, dtype=torch.float64)
    rows = features(70, 40, seed=7)
    for part in rows.split(7):
        plain.update(part)
        reused.update(buffer.copy_(part))
        assert plain.count == reused.count
    expected = torch.cov(rows.T)
    for moments in (plain, reused, Moments.unpacked(plain.packed())):
        torch.testing.assert_close(moments.gaussian().covariance, expected, rtol=1e-12, atol=1e-12)
        assert moments.count == 70
