from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gdd.errors import UserError
from gdd.files import sha256
from gdd.metrics.extractors import PixelExtractor
from gdd.metrics.published import UNKNOWN_COUNT, compare_with_published, load_published, report_distance
from gdd.metrics.reference import Reference, build_reference, load_reference

FEATURES = 16


@pytest.fixture(scope="module")
def reference_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "own.npz"
    images = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 1), dtype=np.uint8)
    # Some pixels never change, as in a border: the covariance is singular.
    images[:, 0] = 7
    build_reference(images, PixelExtractor(4, 1), dataset="noise", dataset_sha256="b" * 64, path=path)
    return path


@pytest.fixture
def reference(reference_file: Path) -> Reference:
    return load_reference(reference_file)


def statistics(reference: Reference) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return reference.gaussian.mean.numpy().copy(), reference.gaussian.covariance.numpy().copy()


def test_the_same_statistics_are_at_distance_zero(tmp_path: Path, reference: Reference) -> None:
    mu, sigma = statistics(reference)
    path = tmp_path / "noise-4x4.npz"
    np.savez(path, mu=mu, sigma=sigma, arr_0=np.zeros(3))
    published = load_published(path)
    assert published.count == UNKNOWN_COUNT
    assert published.mean.dtype == published.covariance.dtype == torch.float64
    result = compare_with_published(reference, path)
    assert result["frechet_distance"] < 1e-12
    assert result["mean_difference"] == 0
    assert result["own_trace"] == result["published_trace"] > 0
    assert (result["features"], result["count"], result["published_count"]) == (FEATURES, 60, None)
    assert (result["extractor"], result["dataset"]) == ("pixels", "noise")
    assert result["published_sha256"] == sha256(path)


def test_a_shift_and_a_scale_are_measured(tmp_path: Path, reference: Reference) -> None:
    mu, sigma = statistics(reference)
    mu[3] += 0.25
    mu[5] -= 0.5
    np.savez(tmp_path / "other.npz", mu=mu, sigma=4 * sigma)
    result = compare_with_published(reference, tmp_path / "other.npz")
    # tr(S + 4 S - 2 (4 S S)^(1/2)) = tr(S), also for a singular S.
    expected = 0.25**2 + 0.5**2 + np.trace(sigma)
    assert result["frechet_distance"] == pytest.approx(expected, rel=1e-10)
    assert result["relative_distance"] == pytest.approx(expected / np.trace(4 * sigma), rel=1e-10)
    assert result["mean_difference"] == pytest.approx(0.5)


def test_statistics_in_float32_are_the_same_up_to_rounding(tmp_path: Path, reference: Reference) -> None:
    mu, sigma = statistics(reference)
    np.savez_compressed(tmp_path / "small.npz", mu=mu.astype(np.float32), sigma=sigma.astype(np.float32))
    result = compare_with_published(reference, tmp_path / "small.npz")
    assert 0 < result["mean_difference"] < 1e-7
    assert result["relative_distance"] < 1e-6


def test_no_spread_has_no_relative_distance(tmp_path: Path, reference: Reference) -> None:
    np.savez(tmp_path / "point.npz", mu=np.zeros(FEATURES), sigma=np.zeros((FEATURES, FEATURES)))
    result = compare_with_published(reference, tmp_path / "point.npz")
    mu, sigma = statistics(reference)
    assert result["frechet_distance"] == pytest.approx((mu**2).sum() + np.trace(sigma))
    assert result["relative_distance"] is None


def test_the_report_is_json(tmp_path: Path, reference: Reference, reference_file: Path) -> None:
    mu, sigma = statistics(reference)
    np.savez(tmp_path / "published.npz", mu=mu + 1, sigma=sigma)
    out = tmp_path / "sub" / "distance.json"
    result = report_distance(out, reference_file, tmp_path / "published.npz")
    assert json.loads(out.read_text()) == result
    assert result["frechet_distance"] == pytest.approx(FEATURES)
    assert result["reference_sha256"] == sha256(reference_file)
    assert result["published_file"] == "published.npz"


def test_other_features_are_refused(tmp_path: Path, reference: Reference) -> None:
    np.savez(tmp_path / "wide.npz", mu=np.zeros(20), sigma=np.eye(20))
    with pytest.raises(UserError, match=r"of 20 features, the reference of noise of 16 \(pixels\)"):
        compare_with_published(reference, tmp_path / "wide.npz")


def lopsided() -> np.ndarray[Any, Any]:
    sigma = np.eye(3)
    sigma[0, 1] = 0.5
    return sigma


@pytest.mark.parametrize(
    ("mu", "sigma", "message"),
    [
        (np.zeros(3), np.eye(4), r"\(3,\) and sigma \(4, 4\)"),
        (np.zeros((3, 1)), np.eye(3), r"\(3, 1\)"),
        (np.zeros(0), np.zeros((0, 0)), r"\(0,\)"),
        (np.array([0, np.nan, 0]), np.eye(3), "mu holds NaN"),
        (np.zeros(3), np.diag([1, np.inf, 1]), "sigma holds NaN or infinity"),
        (np.zeros(3, dtype=complex), np.eye(3), "complex128"),
        (np.array(["a", "b", "c"]), np.eye(3), "instead of real numbers"),
        (np.zeros(3), lopsided(), "symmetric"),
        (np.zeros(3), -np.eye(3), "negative"),
    ],
)
def test_unusable_statistics_are_refused(
    tmp_path: Path, mu: np.ndarray[Any, Any], sigma: np.ndarray[Any, Any], message: str
) -> None:
    np.savez(tmp_path / "bad.npz", mu=mu, sigma=sigma)
    with pytest.raises(UserError, match=message) as error:
        load_published(tmp_path / "bad.npz")
    assert "bad.npz" in str(error.value)


class Planted:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("planted"),))


def test_what_is_no_such_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("keys.npz", mean=np.zeros(2))
    np.savez("object.npz", mu=np.array([Planted()], dtype=object), sigma=np.eye(1))
    np.save("array.npy", np.zeros(3))
    Path("page.npz").write_text("<html>not found</html>")
    Path("empty.npz").write_bytes(b"")
    np.savez("whole.npz", mu=np.zeros(50), sigma=np.eye(50))
    Path("half.npz").write_bytes(Path("whole.npz").read_bytes()[:4000])
    for name in ("keys.npz", "object.npz", "array.npy", "page.npz", "empty.npz", "half.npz", "."):
        with pytest.raises(UserError, match="is no file of published statistics"):
            load_published(name)
    assert not Path("planted").exists()
    with pytest.raises(UserError, match="do not exist; run `gdd fetch`"):
        load_published("missing.npz")
