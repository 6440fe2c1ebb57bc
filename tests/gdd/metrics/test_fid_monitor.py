"""FID while a run is trained: the right number, and the run as it would be without."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gdd.data.quantise import quantise
from gdd.distill.distill import distill
from gdd.distill.generate import generate
from gdd.distill.student import Student
from gdd.errors import UserError
from gdd.metrics.by_name import make_extractor
from gdd.metrics.frechet import Moments, frechet_distance
from gdd.metrics.monitor import FidMonitor
from gdd.metrics.reference import build_reference
from gdd.networks.checkpoint import load_generator
from gdd.training.stop import Stopped

pytestmark = pytest.mark.slow

SEED, IMAGES, NAME = 1, 70, "fid_of_70"  # more than one batch of images, and more than there are features
TIMING = {"images_per_second", "seconds", "peak_memory_mib"}


@pytest.fixture(scope="module")
def reference(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "one.npz"
    extractor = make_extractor(world.backbones["one"], world.data)
    images = np.asarray(world.data.images)
    build_reference(images, extractor, dataset="blobs", dataset_sha256=world.data.sha256, path=path)
    return path


@pytest.fixture
def monitor(world: Any, reference: Path) -> FidMonitor:
    return FidMonitor(IMAGES, world.backbones["one"], reference, every=12)


def train(world: Any, folder: Path, monitor: FidMonitor | None, **changes: Any) -> None:
    recipe = world.recipe(snapshot_every=8, **changes)
    distill(folder, recipe, SEED, world.inputs(), checkpoint_every=16, monitor=monitor)


def measured(lines: list[dict[str, Any]]) -> dict[int, float]:
    found = [line for line in lines if line.get("event") == "measurement"]
    assert len({line["images"] for line in found}) == len(found)
    return {line["images"]: line[NAME] for line in found}


def test_the_run_is_the_same_and_the_number_that_of_its_snapshots(
    world: Any,
    tmp_path: Path,
    monitor: FidMonitor,
    reference: Path,
    published: Callable[[Path], dict[str, bytes]],
    logged: Callable[[Path], list[dict[str, Any]]],
) -> None:
    train(world, tmp_path / "with", monitor)
    train(world, tmp_path / "without", None)
    assert published(tmp_path / "with") == published(tmp_path / "without")
    lines = logged(tmp_path / "with")
    for line, plain in zip(
        [line for line in lines if "event" not in line], logged(tmp_path / "without"), strict=True
    ):
        assert {key: line[key] for key in line.keys() - TIMING} == {
            key: plain[key] for key in plain.keys() - TIMING
        }

    found = measured(lines)
    assert list(found) == [16, 24, 32]  # the first steps at or after 12 and 24, and the end
    extractor = make_extractor(world.backbones["one"], world.data)
    with np.load(reference) as file:
        mean, covariance = (torch.from_numpy(file[key]) for key in ("mean", "covariance"))
    for images, value in found.items():
        generator = load_generator(tmp_path / "with" / "snapshots" / f"{images:09d}.safetensors")
        features = extractor(quantise(generate(generator, 0, IMAGES)))
        moments = Moments(extractor.dimension)
        moments.update(features)
        real = replace(moments.gaussian(), mean=mean, covariance=covariance)
        assert value == pytest.approx(frechet_distance(moments.gaussian(), real), rel=1e-4)

    runs = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("with", "without")]
    facts = runs[0]["sessions"][0].pop("monitor")
    assert (facts["name"], facts["images"], facts["dataset"]) == (NAME, IMAGES, "blobs")
    assert "not comparable with a distance of another number of images than 70" in facts["definition"]
    for run in runs:  # apart from the session's, no trace of it
        for key in ("seconds", "device_seconds", "peak_memory_mib"):
            run.pop(key)
    assert runs[0] == runs[1]


@pytest.mark.parametrize(("after", "how"), [(2, "crash"), (3, "crash"), (2, "SIGUSR2"), (3, "SIGTERM")])
def test_interrupted_it_has_every_number_once(
    world: Any,
    tmp_path: Path,
    monitor: FidMonitor,
    interrupt: Callable[..., None],
    logged: Callable[[Path], list[dict[str, Any]]],
    after: int,
    how: str,
) -> None:
    """The stop comes in a step after which one is due: it is left to the next start."""
    train(world, tmp_path / "whole", monitor)
    interrupt(Student, after, how)
    with pytest.raises(Exception) as error:
        train(world, tmp_path / "run", monitor)
    assert error.type.__name__ == ("Crash" if how == "crash" else Stopped.__name__)
    if how == "SIGUSR2":
        assert "event" not in (tmp_path / "run" / "state" / "log.jsonl").read_text()
    train(world, tmp_path / "run", monitor)
    assert measured(logged(tmp_path / "run")) == measured(logged(tmp_path / "whole"))


def test_it_can_come_and_go_within_a_run(
    world: Any,
    tmp_path: Path,
    monitor: FidMonitor,
    interrupt: Callable[..., None],
    logged: Callable[[Path], list[dict[str, Any]]],
) -> None:
    interrupt(Student, 3, "SIGTERM")
    with pytest.raises(Stopped):
        train(world, tmp_path / "run", None)
    train(world, tmp_path / "run", monitor)
    assert list(measured(logged(tmp_path / "run"))) == [32]
    assert not list((tmp_path / "run").glob("state.*"))  # it is the same run


def test_by_the_snapshots_if_nothing_else_is_said(
    world: Any, tmp_path: Path, reference: Path, logged: Callable[[Path], list[dict[str, Any]]]
) -> None:
    train(world, tmp_path / "run", FidMonitor(IMAGES, world.backbones["one"], reference))
    assert list(measured(logged(tmp_path / "run"))) == [8, 16, 24, 32]


def test_a_generator_without_numbers_has_none(
    world: Any, tmp_path: Path, monitor: FidMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    generator = load_generator_with_nan(world)
    monitor.open(world.data, torch.device("cpu"))
    value = monitor.measure(generator, lambda: False)
    assert value is not None
    assert np.isnan(value[NAME])
    assert "fid_of_70: 64 of 64 generated images hold NaN" in caplog.text


def test_a_full_memory_does_not_end_the_training(
    world: Any, monitor: FidMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("gdd.metrics.monitor.generate", full)
    monitor.open(world.data, torch.device("cpu"))
    value = monitor.measure(load_generator_with_nan(world), lambda: False)
    assert value is not None
    assert np.isnan(value[NAME])


def load_generator_with_nan(world: Any) -> Any:
    from gdd.networks.checkpoint import one_step_from_denoiser

    generator = one_step_from_denoiser(world.teachers[False]).eval()
    with torch.no_grad():
        next(generator.parameters()).fill_(torch.nan)
    return generator


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"images": 3}, "3 images are too few for a Frechet distance on "),
        ({"judge": "two"}, "was made by the extractor classifier"),
        ({"reference": Path("no/one.npz")}, "The reference features no/one.npz do not exist"),
        ({"dataset": "other"}, "The reference is of the data set blobs, the images are of other"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(
    world: Any,
    tmp_path: Path,
    reference: Path,
    interrupt: Callable[..., None],
    changes: dict[str, Any],
    sentence: str,
) -> None:
    judge = world.backbones[changes.get("judge", "one")]
    monitor = FidMonitor(
        changes.get("images", IMAGES),
        judge,
        changes.get("reference", reference),
        dataset=changes.get("dataset"),
    )
    interrupt(Student, 0, "crash")
    with pytest.raises(UserError) as error:
        train(world, tmp_path / "run", monitor)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_in_two_processes_the_main_one_measures(
    world: Any,
    tmp_path: Path,
    reference: Path,
    distill_command: Callable[..., list[str]],
    logged: Callable[[Path], list[dict[str, Any]]],
) -> None:
    options = ["--monitor-fid", IMAGES, "--monitor-every", 12]
    options += ["--judge", world.backbones["one"], "--judge-reference", reference]
    small = {"lr": {"generator": 1e-5, "discriminator": 1e-5}}  # Adam makes steps of rounding
    found = []
    for processes in (1, 2):
        folder = tmp_path / f"{processes}"
        command = distill_command(folder, *options, "--processes", processes, **small)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append(measured(logged(folder)))
    assert list(found[0]) == [16, 24, 32]
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    assert min(found[0].values()) > 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--monitor-fid", 70],
            "--monitor-fid needs to know what judges: give --judge and --judge-reference.",
        ),
        (
            ["--monitor-every", 8],
            "--monitor-every and --judge... belong to --monitor-fid; give it a number of images.",
        ),
    ],
)
def test_half_an_order_is_one_sentence(
    tmp_path: Path, distill_command: Callable[..., list[str]], options: list[Any], sentence: str
) -> None:
    command = distill_command(tmp_path / "run", *options)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"gdd: {sentence}\n")
    assert not (tmp_path / "run").exists()
