"""References: our own, from a data set's images, and statistics that others published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from gdd.errors import UserError
from gdd.files import sha256
from gdd.metrics.extractors import Extractor, PixelExtractor
from gdd.metrics.frechet import Moments, frechet_distance
from gdd.metrics.neighbours import neighbour_metrics
from gdd.metrics.published import load_published, report_distance
from gdd.metrics.reference import FLOOR_SEED, Reference, build_reference, check_compatible, load_reference


class Tiny:
    """Three features of an image, so that 40 images are many."""

    name = "tiny"
    dimension = 3
    sha256 = "a" * 64
    definition = "mean, corner and spread"

    def __call__(self, images: Tensor) -> Tensor:
        flat = images.double().flatten(1)
        return torch.stack([flat.mean(dim=1), flat[:, 0], flat.std(dim=1)], dim=1)


def dataset(count: int = 41) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 4, 4, 1), dtype=np.uint8)


def build(path: Path, images: npt.NDArray[np.uint8], extractor: Extractor, **options: int) -> Reference:
    return build_reference(images, extractor, dataset="noise", dataset_sha256="b" * 64, path=path, **options)


def test_what_is_built_is_what_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "noise.npz"
    built, loaded = build(path, dataset(), Tiny(), batch=7), load_reference(path)
    assert loaded.description == built.description
    for a, b in (
        (built.gaussian.mean, loaded.gaussian.mean),
        (built.gaussian.covariance, loaded.gaussian.covariance),
        (built.rows, loaded.rows),
    ):
        assert torch.equal(a, b)
        assert b.dtype == torch.float64
    assert loaded.gaussian.count == loaded.description.count == 41
    assert (loaded.description.definition, loaded.description.resolution) == (Tiny.definition, 4)
    features = Tiny()(torch.from_numpy(dataset())).numpy()
    np.testing.assert_allclose(loaded.rows.numpy(), features)
    np.testing.assert_allclose(loaded.gaussian.covariance.numpy(), np.cov(features, rowvar=False), rtol=1e-12)
    assert [item.name for item in path.parent.iterdir()] == ["noise.npz"]
    before = path.read_bytes()
    build(path, dataset(), Tiny(), batch=7)
    assert path.read_bytes() == before


def test_floor_is_one_half_against_the_other(tmp_path: Path) -> None:
    reference = build(tmp_path / "r.npz", dataset(), Tiny(), batch=5)
    order = np.random.default_rng(FLOOR_SEED).permutation(41)
    features = Tiny()(torch.from_numpy(dataset()))
    real, other = features[order[0::2]], features[order[1::2]]
    distance = frechet_distance(Moments.of(3, [real]).gaussian(), Moments.of(3, [other]).gaussian())
    shares = neighbour_metrics(real, other)._asdict()
    assert reference.description.floor == pytest.approx({"fid": distance, **shares}, rel=1e-10)
    # The same numbers of other features have the same floor in these.
    assert reference.floor("pixel_recall") == reference.floor("recall") == shares["recall"]
    assert (reference.floor("nearest"), reference.floor("inception_score")) == (1, None)


def test_a_sample_of_the_features_is_kept_of_a_large_set(tmp_path: Path) -> None:
    everything = build(tmp_path / "all.npz", dataset(), Tiny(), batch=6)
    sample = build(tmp_path / "some.npz", dataset(), Tiny(), kept=10, batch=6)
    assert torch.equal(sample.rows, everything.rows[[0, 4, 8, 12, 16, 20, 24, 28, 32, 36]])
    assert torch.equal(sample.gaussian.covariance, everything.gaussian.covariance)
    assert sample.floor("fid") == everything.floor("fid")
    assert sample.description.count == 41


def test_images_may_be_mapped_from_disk_and_few(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", dataset(12))
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    reference = build(tmp_path / "r.npz", mapped, PixelExtractor((1, 4, 4)))
    # 6 images a half cannot give a Frechet distance on 16 features.
    assert reference.floor("pixel_fid") is None
    assert load_reference(tmp_path / "r.npz").rows.dtype == torch.float32
    with pytest.raises(UserError, match="7 images"):
        build(tmp_path / "r.npz", dataset(7), Tiny())


def test_incompatible_references_are_refused(tmp_path: Path) -> None:
    reference = build(tmp_path / "r.npz", dataset(), Tiny())
    check_compatible(reference, Tiny(), "noise", 4)
    with pytest.raises(UserError, match="data set noise, the images are of digits"):
        check_compatible(reference, Tiny(), "digits", 4)
    with pytest.raises(UserError, match="resolution 4, the images at 8"):
        check_compatible(reference, Tiny(), "noise", 8)
    with pytest.raises(UserError, match=r"tiny .* not by pixels"):
        check_compatible(reference, PixelExtractor((1, 4, 4)), "noise", 4)
    retrained, wider = Tiny(), Tiny()
    retrained.sha256, wider.dimension = "c" * 64, 5
    with pytest.raises(UserError, match=r"aaaaaaaaaaaa.*cccccccccccc"):
        check_compatible(reference, retrained, "noise", 4)
    with pytest.raises(UserError, match="has 3 features, the extractor tiny gives 5"):
        check_compatible(reference, wider, "noise", 4)


class Planted:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("planted"),))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are neither references nor statistics, in the current folder."""
    monkeypatch.chdir(tmp_path)
    np.savez("keys.npz", other=np.zeros(2))
    planted = np.array([Planted()], dtype=object)
    np.savez("object.npz", mu=planted, sigma=np.eye(1), description=planted)
    np.save("array.npy", np.zeros(3))
    Path("page.npz").write_text("<html>not found</html>")
    Path("empty.npz").write_bytes(b"")
    np.savez("whole.npz", mu=np.zeros(50), sigma=np.eye(50), description=np.array("{}"))
    Path("half.npz").write_bytes(Path("whole.npz").read_bytes()[:4000])


@pytest.mark.parametrize("name", ["keys.npz", "object.npz", "page.npz", "empty.npz", "half.npz", "."])
@pytest.mark.usefixtures("files")
def test_other_files_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="is no reference file"):
        load_reference(name)
    with pytest.raises(UserError, match="is no file of published statistics"):
        load_published(name)
    assert not Path("planted").exists()


@pytest.mark.usefixtures("files")
def test_missing_files_and_old_ones_are_refused() -> None:
    with pytest.raises(UserError, match="do not exist; build them first"):
        load_reference("missing.npz")
    with pytest.raises(UserError, match="do not exist; run `gdd fetch`"):
        load_published("missing.npz")
    with pytest.raises(UserError, match="is no file of published statistics"):
        load_published("array.npy")
    with pytest.raises(UserError, match="is missing"):
        np.savez("unknown.npz", description=np.array(json.dumps({"dataset": "x"})))
        load_reference("unknown.npz")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference of 16 features, of which some never change, as in a border: the covariance is singular."""
    path, images = tmp_path_factory.mktemp("reference") / "own.npz", dataset(60)
    images[:, 0] = 7
    build(path, images, PixelExtractor((1, 4, 4)))
    return path


@pytest.fixture
def statistics(own: Path) -> tuple[np.ndarray, np.ndarray]:
    gaussian = load_reference(own).gaussian
    return gaussian.mean.numpy().copy(), gaussian.covariance.numpy().copy()


def test_the_same_statistics_are_at_distance_zero(tmp_path: Path, own: Path, statistics: Any) -> None:
    mu, sigma = statistics
    path, out = tmp_path / "noise-4x4.npz", tmp_path / "sub" / "distance.json"
    np.savez(path, mu=mu, sigma=sigma, arr_0=np.zeros(3))
    result = report_distance(out, own, path)
    assert json.loads(out.read_text()) == result
    assert result["frechet_distance"] < 1e-12
    assert result["mean_difference"] == 0
    assert result["own_trace"] == result["published_trace"] > 0
    assert (result["features"], result["count"], result["published_count"]) == (16, 60, None)
    assert (result["extractor"], result["dataset"]) == ("pixels", "noise")
    assert result["published_sha256"] == sha256(path)
    assert result["reference_sha256"] == sha256(own)
    np.savez_compressed(path, mu=mu.astype(np.float32), sigma=sigma.astype(np.float32))
    result = report_distance(out, own, path)
    assert 0 < result["mean_difference"] < 1e-7
    assert result["relative_distance"] < 1e-6


def test_a_shift_and_a_scale_are_measured(tmp_path: Path, own: Path, statistics: Any) -> None:
    mu, sigma = statistics
    mu[3] += 0.25
    mu[5] -= 0.5
    path, out = tmp_path / "other.npz", tmp_path / "distance.json"
    np.savez(path, mu=mu, sigma=4 * sigma)
    result = report_distance(out, own, path)
    # tr(S + 4 S - 2 (4 S S)^(1/2)) = tr(S), also for a singular S.
    expected = 0.25**2 + 0.5**2 + np.trace(sigma)
    assert result["frechet_distance"] == pytest.approx(expected, rel=1e-10)
    assert result["relative_distance"] == pytest.approx(expected / np.trace(4 * sigma), rel=1e-10)
    assert result["mean_difference"] == pytest.approx(0.5)
    np.savez(path, mu=mu, sigma=np.zeros((16, 16)))
    assert report_distance(out, own, path)["relative_distance"] is None
    np.savez(path, mu=np.zeros(20), sigma=np.eye(20))
    with pytest.raises(UserError, match=r"of 20 features, the reference of noise of 16 \(pixels\)"):
        report_distance(out, own, path)


@pytest.mark.parametrize(
    ("mu", "sigma", "message"),
    [
        (np.zeros(3), np.eye(4), r"mu has the shape \[3\] and sigma \[4, 4\]"),
        (np.zeros((3, 1)), np.eye(3), r"\[3, 1\]"),
        (np.zeros(0), np.zeros((0, 0)), r"\[0\]"),
        (np.array([0, np.nan, 0]), np.eye(3), "hold NaN"),
        (np.zeros(3), np.diag([1, np.inf, 1]), "hold NaN or infinity"),
        (np.array(["a", "b", "c"]), np.eye(3), "is no file of published statistics"),
    ],
)
def test_unusable_statistics_are_refused(tmp_path: Path, mu: Any, sigma: Any, message: str) -> None:
    np.savez(tmp_path / "bad.npz", mu=mu, sigma=sigma)
    with pytest.raises(UserError, match=message) as error:
        load_published(tmp_path / "bad.npz")
    assert "bad.npz" in str(error.value)
