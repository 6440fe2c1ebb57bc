from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from gdd.errors import UserError
from gdd.metrics.extractors import FeatureExtractor, PixelExtractor
from gdd.metrics.frechet import Moments, frechet_distance
from gdd.metrics.neighbours import nearest_distance, neighbour_metrics, squared_radii
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


def build(
    path: Path, images: npt.NDArray[np.uint8], extractor: FeatureExtractor, **options: int
) -> Reference:
    return build_reference(images, extractor, dataset="noise", dataset_sha256="b" * 64, path=path, **options)


def test_what_is_built_is_what_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "noise.npz"
    built = build(path, dataset(), Tiny(), batch=7)
    loaded = load_reference(path)
    assert loaded.description == built.description
    for a, b in zip(_arrays(built), _arrays(loaded), strict=True):
        assert torch.equal(a, b)
        assert b.dtype == torch.float64
    assert loaded.gaussian.count == loaded.description.count == 41
    assert loaded.description.definition == Tiny.definition
    assert loaded.description.resolution == 4
    features = Tiny()(torch.from_numpy(dataset())).numpy()
    np.testing.assert_allclose(loaded.features.numpy(), features)
    np.testing.assert_allclose(loaded.gaussian.covariance.numpy(), np.cov(features, rowvar=False), rtol=1e-12)
    assert [item.name for item in path.parent.iterdir()] == ["noise.npz"]


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    build(tmp_path / "a.npz", dataset(), Tiny())
    build(tmp_path / "b.npz", dataset(), Tiny())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_floor_is_one_half_against_the_other(tmp_path: Path) -> None:
    reference = build(tmp_path / "r.npz", dataset(), Tiny(), batch=5)
    order = np.random.default_rng(FLOOR_SEED).permutation(41)
    features = Tiny()(torch.from_numpy(dataset()))
    real, other = features[order[0::2]], features[order[1::2]]
    halves = []
    for half in (real, other):
        moments = Moments(3)
        moments.update(half)
        halves.append(moments.gaussian())
    floor = reference.description.floor
    assert (floor.real_count, floor.other_count) == (21, 20)
    assert floor.fid == pytest.approx(frechet_distance(*halves), rel=1e-10)
    found = (floor.precision, floor.recall, floor.density, floor.coverage)
    assert found == neighbour_metrics(real, other)


def test_a_sample_of_the_features_is_kept_of_a_large_set(tmp_path: Path) -> None:
    everything = build(tmp_path / "all.npz", dataset(), Tiny(), batch=6)
    sample = build(tmp_path / "some.npz", dataset(), Tiny(), kept=10, batch=6)
    assert torch.equal(sample.features, everything.features[[0, 4, 8, 12, 16, 20, 24, 28, 32, 36]])
    assert torch.equal(sample.gaussian.covariance, everything.gaussian.covariance)
    assert sample.description.floor.fid == everything.description.floor.fid
    assert sample.description.count == 41


def test_images_may_be_mapped_from_disk_and_few(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", dataset(12))
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    reference = build(tmp_path / "r.npz", mapped, PixelExtractor(4, 1))
    # 6 images a half cannot give a Frechet distance on 16 features.
    assert reference.description.floor.fid is None
    median = nearest_distance(reference.features, reference.features, exclude_self=True).quantile(0.5)
    assert reference.description.nearest_real == pytest.approx(float(median) / 4)
    assert load_reference(tmp_path / "r.npz").features.dtype == torch.float32
    with pytest.raises(UserError, match="7 images"):
        build(tmp_path / "r.npz", dataset(7), Tiny())


def test_radii_are_kept_where_they_take_long(tmp_path: Path) -> None:
    large = np.random.default_rng(0).integers(0, 256, (12, 18, 18, 1), dtype=np.uint8)
    reference = build(tmp_path / "r.npz", large, PixelExtractor(18, 1))
    kept = load_reference(tmp_path / "r.npz").squares
    assert kept is not None
    found = squared_radii(reference.features)
    assert found is not None
    assert torch.equal(kept, found)
    build(tmp_path / "small.npz", dataset(), Tiny())
    assert load_reference(tmp_path / "small.npz").squares is None


def test_incompatible_references_are_refused(tmp_path: Path) -> None:
    reference = build(tmp_path / "r.npz", dataset(), Tiny())
    check_compatible(reference, Tiny(), "noise", 4)
    with pytest.raises(UserError, match="data set noise, the images are of digits"):
        check_compatible(reference, Tiny(), "digits", 4)
    with pytest.raises(UserError, match="resolution 4, the images at 8"):
        check_compatible(reference, Tiny(), "noise", 8)
    with pytest.raises(UserError, match=r"tiny .* not by pixels"):
        check_compatible(reference, PixelExtractor(4, 1), "noise", 4)
    retrained = Tiny()
    retrained.sha256 = "c" * 64
    with pytest.raises(UserError, match=r"aaaaaaaaaaaa.*cccccccccccc"):
        check_compatible(reference, retrained, "noise", 4)
    wider = Tiny()
    wider.dimension = 5
    with pytest.raises(UserError, match="has 3 features, the extractor tiny gives 5"):
        check_compatible(reference, wider, "noise", 4)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="do not exist"):
        load_reference(tmp_path / "missing.npz")
    text = tmp_path / "text.npz"
    text.write_text("no archive")
    cut = tmp_path / "cut.npz"
    build(cut, dataset(), Tiny())
    cut.write_bytes(cut.read_bytes()[:-200])
    foreign = tmp_path / "foreign.npz"
    np.savez(foreign, mu=np.zeros(3), sigma=np.eye(3))
    for path in (text, cut, foreign):
        with pytest.raises(UserError, match=f"{path.name} is no reference file"):
            load_reference(path)
    unknown = tmp_path / "unknown.npz"
    np.savez(unknown, mean=0, covariance=0, features=0, description=np.array(json.dumps({"dataset": "x"})))
    with pytest.raises(UserError, match="is missing"):
        load_reference(unknown)


def _arrays(reference: Reference) -> tuple[Tensor, Tensor, Tensor]:
    return reference.gaussian.mean, reference.gaussian.covariance, reference.features
