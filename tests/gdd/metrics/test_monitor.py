"""FID while a run is trained: the right number, and the run as it would be without."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gdd.data.image_array import quantise
from gdd.distill.distill import distill
from gdd.distill.generate import generate
from gdd.errors import UserError
from gdd.metrics.build_reference import build_reference
from gdd.metrics.extractors import open_extractor
from gdd.metrics.frechet import Moments, frechet_distance
from gdd.metrics.monitor import FidMonitor
from gdd.metrics.reference import load_reference
from gdd.networks.checkpoint import load_denoiser, load_generator
from gdd.networks.preconditioning import OneStepGenerator

pytestmark = pytest.mark.slow

SEED, IMAGES, NAME = 1, 70, "fid_of_70"  # more than one batch of images, and more than there are features
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def reference(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "one.npz"
    extractor = open_extractor("one", toy.backbones["one"], toy.data.shape)
    images = np.asarray(toy.data.images)
    build_reference(images, extractor, dataset="blobs", dataset_sha256=toy.data.sha256, path=path)
    return path


@pytest.fixture
def monitor(toy: Any, reference: Path) -> FidMonitor:
    return FidMonitor(IMAGES, toy.backbones["one"], reference, every=12)


def test_the_run_is_the_same_and_the_number_that_of_its_snapshots(
    toy: Any,
    tmp_path: Path,
    monitor: FidMonitor,
    reference: Path,
    published: Callable[[Path], dict[str, bytes]],
    logged: Callable[[Path], list[dict[str, Any]]],
) -> None:
    for name, by in (("with", monitor), ("without", None)):
        distill(tmp_path / name, toy.recipe(snapshot_every=8), SEED, toy.inputs(), monitor=by)
    assert published(tmp_path / "with") == published(tmp_path / "without")
    lines = [line for line in logged(tmp_path / "with") if line.get("event") == "measurement"]
    assert [line["images"] for line in lines] == [16, 24, 32]  # the first at or after 12 and 24, and the end
    extractor = open_extractor("one", toy.backbones["one"], toy.data.shape)
    for line in lines:
        generator = load_generator(tmp_path / "with" / "snapshots" / f"{line['images']:09d}.safetensors")
        features = extractor(quantise(generate(generator, 0, IMAGES)))
        gaussian = Moments.of(extractor.dimension, [features]).gaussian()
        expected = frechet_distance(load_reference(reference).gaussian, gaussian)
        assert line[NAME] == pytest.approx(expected, rel=1e-4)
    facts = json.loads((tmp_path / "with" / "run.json").read_text())["sessions"][0]["monitor"]
    assert (facts["name"], facts["images"], facts["dataset"]) == (NAME, IMAGES, "blobs")
    assert "not comparable with a distance of another number of images than 70" in facts["definition"]


def test_neither_nan_nor_a_full_memory_ends_the_training(
    toy: Any, monitor: FidMonitor, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = OneStepGenerator.from_denoiser(load_denoiser(toy.teachers[False])).eval()
    with torch.no_grad():
        next(generator.parameters()).fill_(torch.nan)
    monitor.open(toy.data, CPU)
    assert np.isnan((monitor.measure(generator, lambda: False) or {})[NAME])
    assert "fid_of_70: 64 of 64 generated images hold NaN" in caplog.text
    assert monitor.measure(generator, lambda: True) is None

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("gdd.metrics.monitor.generate", full)
    assert np.isnan((monitor.measure(generator, lambda: False) or {})[NAME])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"images": 3}, "3 images are too few for 'fid': the covariance of "),
        ({"weights": "two"}, "The reference of blobs has "),
        ({"reference": Path("no/one.npz")}, "The reference no/one.npz does not exist"),
        ({"dataset": "other"}, "The reference is of the data set blobs, the images are of other"),
    ],
)
def test_what_does_not_fit_is_refused(
    toy: Any, reference: Path, changes: dict[str, Any], sentence: str
) -> None:
    weights = toy.backbones[changes.get("weights", "one")]
    files = weights, changes.get("reference", reference)
    monitor = FidMonitor(changes.get("images", IMAGES), *files, dataset=changes.get("dataset"))
    with pytest.raises(UserError) as error:
        monitor.open(toy.data, CPU)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
