"""References: our own, from a data set's images, and statistics that others published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gdd.errors import UserError
from gdd.files import sha256
from gdd.metrics import build_reference as building
from gdd.metrics.build_reference import FLOOR_SEED, build_reference, report_distance
from gdd.metrics.extractors import PixelExtractor
from gdd.metrics.feature_sets import neighbour_metrics
from gdd.metrics.frechet import Moments, frechet_distance
from gdd.metrics.reference import Reference, load_reference


class Tiny:
    """Three features of an image, so that 40 images are many."""

    name = "tiny"
    dimension = 3
    sha256 = "a" * 64
    definition = "mean, corner and spread"

    def __call__(self, images: Tensor) -> Tensor:
        flat = images.double().flatten(1)
        return torch.stack([flat.mean(dim=1), flat[:, 0], flat.std(dim=1)], dim=1)


IMAGES = np.random.default_rng(0).integers(0, 256, (41, 4, 4, 1), dtype=np.uint8)
FEATURES = Tiny()(torch.from_numpy(IMAGES))


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "BATCH", 7)


def build(path: Path, images: np.ndarray = IMAGES, extractor: Any = None) -> Reference:
    build_reference(images, extractor or Tiny(), dataset="noise", dataset_sha256="b" * 64, path=path)
    return load_reference(path)


def test_the_features_of_all_images(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "noise.npz"
    reference = build(path)
    of = reference.description
    assert (of.count, of.dataset, of.definition, of.resolution) == (41, "noise", Tiny.definition, 4)
    assert reference.sha256 == sha256(path)
    assert torch.equal(reference.rows, FEATURES)
    covariance = np.cov(FEATURES.numpy(), rowvar=False)
    np.testing.assert_allclose(reference.gaussian.covariance.numpy(), covariance, rtol=1e-12)
    assert [item.name for item in path.parent.iterdir()] == ["noise.npz"]
    before = path.read_bytes()
    build(path)
    assert path.read_bytes() == before


def test_floor_is_one_half_against_the_other(tmp_path: Path) -> None:
    reference = build(tmp_path / "r.npz")
    order = np.random.default_rng(FLOOR_SEED).permutation(41)
    real, other = FEATURES[order[0::2]], FEATURES[order[1::2]]
    distance = frechet_distance(Moments.of(3, [real]).gaussian(), Moments.of(3, [other]).gaussian())
    shares = neighbour_metrics(real, other)._asdict()
    assert reference.description.floor == pytest.approx({"fid": distance, **shares}, rel=1e-10)
    # The same numbers of other features have the same floor in these.
    assert reference.floor("pixel_recall") == reference.floor("recall") == shares["recall"]
    assert (reference.floor("nearest"), reference.floor("inception_score")) == (1, None)


def test_a_sample_of_the_features_is_kept_of_a_large_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = build(tmp_path / "all.npz")
    monkeypatch.setattr(building, "KEPT", 10)
    sample = build(tmp_path / "some.npz")
    assert torch.equal(sample.rows, FEATURES[[0, 4, 8, 12, 16, 20, 24, 28, 32, 36]])
    assert torch.equal(sample.gaussian.covariance, everything.gaussian.covariance)
    assert sample.floor("fid") == everything.floor("fid")
    assert sample.description.count == 41


def test_few_images_mapped_from_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES[:12])
    reference = build(
        tmp_path / "r.npz", np.load(tmp_path / "images.npy", mmap_mode="r"), PixelExtractor((1, 4, 4))
    )
    # 6 images a half cannot give a Frechet distance on 16 features.
    assert reference.floor("pixel_fid") is None
    assert reference.rows.dtype == torch.float32
    with pytest.raises(UserError, match="has 7 images; a reference needs 8"):
        build(tmp_path / "r.npz", IMAGES[:7])


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        ((4, "digits", None), {}, "data set noise, the images are of digits"),
        ((8, None, None), {}, "resolution 4, the images are at 8"),
        ((4, None, "c" * 64), {}, "made from other images than the data set holds now"),
        ((4, None, None), {"name": "other"}, r"the extractor tiny .* not 3 of other"),
        ((4, None, None), {"sha256": "c" * 64}, r"aaaaaaaaaaaa.*cccccccccccc"),
        ((4, None, None), {"dimension": 5}, "has 3 features of the extractor tiny .* not 5"),
    ],
)
def test_incompatible_references_are_refused(
    tmp_path: Path, arguments: Any, changes: dict[str, Any], message: str
) -> None:
    reference, extractor = build(tmp_path / "r.npz"), Tiny()
    reference.check(extractor, 4, "noise", "b" * 64)
    for name, value in changes.items():
        setattr(extractor, name, value)
    with pytest.raises(UserError, match=message):
        reference.check(extractor, *arguments)


class Planted:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("planted"),))


OBJECT = np.array([Planted()], dtype=object)
UNUSABLE: dict[str, dict[str, Any]] = {
    "neither a reference of gdd nor": {"other": np.zeros(2)},
    "allow_pickle": {"mu": OBJECT, "sigma": np.eye(1)},
    "could not convert": {"mu": np.array(["a", "b"]), "sigma": np.eye(2)},
    "the key .* is missing": {"description": np.array(json.dumps({"dataset": "x"}))},
    r"but \[3\] and \[4, 4\]": {"mu": np.zeros(3), "sigma": np.eye(4)},
    r"but \[0\] and": {"mu": np.zeros(0), "sigma": np.zeros((0, 0))},
    "holds NaN or infinity": {"mu": np.zeros(3), "sigma": np.diag([1, np.inf, 1])},
}


@pytest.mark.parametrize("message", UNUSABLE)
def test_other_arrays_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("bad.npz", **UNUSABLE[message])
    with pytest.raises(UserError, match=message):
        load_reference("bad.npz")
    assert not Path("planted").exists()


def test_other_files_are_refused(tmp_path: Path) -> None:
    build(tmp_path / "whole.npz")
    (tmp_path / "half.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:900])
    (tmp_path / "page.npz").write_text("<html>not found</html>")
    (tmp_path / "empty.npz").touch()
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("half.npz", "page.npz", "empty.npz", "array.npy", "."):
        with pytest.raises(UserError, match="neither a reference of gdd nor published mu and sigma"):
            load_reference(tmp_path / name)
    with pytest.raises(UserError, match="does not exist; build it with `gdd reference`"):
        load_reference(tmp_path / "missing.npz")


def test_the_distance_to_published_statistics(tmp_path: Path) -> None:
    images, own, out = IMAGES.copy(), tmp_path / "own.npz", tmp_path / "sub" / "distance.json"
    images[:, 0] = 7  # as in a border: the covariance is singular
    gaussian = build(own, images, PixelExtractor((1, 4, 4))).gaussian
    mu, sigma = gaussian.mean.numpy(), gaussian.covariance.numpy()
    path = tmp_path / "noise-4x4.npz"
    np.savez(path, mu=mu, sigma=sigma, arr_0=np.zeros(3))
    result = report_distance(out, own, path)
    assert json.loads(out.read_text()) == result
    assert result["frechet_distance"] < 1e-12
    assert result["mean_difference"] == 0
    assert result["own_trace"] == result["published_trace"] > 0
    assert (result["features"], result["count"], result["dataset"]) == (16, 41, "noise")
    assert (result["extractor"], result["published_sha256"]) == ("pixels", sha256(path))

    shift = np.zeros(16)
    shift[[3, 5]] = 0.25, -0.5
    np.savez(path, mu=(mu + shift).astype(np.float32), sigma=4 * sigma)
    result = report_distance(out, own, path)
    # tr(S + 4 S - 2 (4 S S)^(1/2)) = tr(S), also for a singular S.
    expected = 0.25**2 + 0.5**2 + np.trace(sigma)
    assert result["frechet_distance"] == pytest.approx(expected, rel=1e-6)
    assert result["relative_distance"] == pytest.approx(expected / np.trace(4 * sigma), rel=1e-6)
    assert result["mean_difference"] == pytest.approx(0.5)
    np.savez(path, mu=mu, sigma=np.zeros((16, 16)))
    assert report_distance(out, own, path)["relative_distance"] is None
    np.savez(path, mu=np.zeros(20), sigma=np.eye(20))
    with pytest.raises(UserError, match=r"of 20 features, the reference of noise of 16 \(pixels\)"):
        report_distance(out, own, path)
