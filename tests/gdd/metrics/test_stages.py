from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judged_runs import EVALUATION, judges_of, make_run, write_references

from gdd.config.evaluation import Evaluation
from gdd.config.recipe import Sampler
from gdd.data.quantise import quantise
from gdd.diffusion.sampling import sample_range
from gdd.distill.generate import EVALUATION_SEED, SAMPLES, generate
from gdd.errors import UserError
from gdd.files import sha256
from gdd.metrics import judging, stages
from gdd.metrics.frechet import Moments, frechet_distance
from gdd.metrics.outcome import summary
from gdd.metrics.sources import TeacherSource, open_source
from gdd.metrics.stages import check_data, evaluate_in_setting, evaluate_run
from gdd.networks.checkpoint import load_denoiser, load_generator

KEYS = {
    *("fid", "precision", "recall", "density", "coverage"),
    *("pixel_fid", "pixel_precision", "pixel_recall", "pixel_density", "pixel_coverage"),
    "nearest",
}


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "EXTRACTION_BATCH", 48)


@pytest.fixture(scope="module")
def folder(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_references(world, tmp_path_factory.mktemp("references"))


@pytest.fixture
def references(world: Any, folder: Path) -> Any:
    return judges_of(world, folder)


@pytest.mark.parametrize("conditional", [False, True], ids=["unconditional", "conditional"])
def test_a_run_has_a_curve_a_final_and_a_best_snapshot(
    world: Any, tmp_path: Path, references: Any, conditional: bool
) -> None:
    folder = make_run(world, tmp_path, conditional)
    metrics = evaluate_run(folder, EVALUATION, references)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert (metrics["kind"], metrics["evaluations"]) == ("student", 1)
    curve = metrics["curve"]
    assert [point["images"] for point in curve] == [16, 32, 48]
    assert all(point.keys() == {"images", "fid", "pixel_fid"} for point in curve)
    final, best = metrics["final"], metrics["best"]
    assert final["images"] == 48
    assert best["images"] == min(curve, key=lambda point: point["fid"])["images"]
    assert "lowest fid" in best["rule"]
    for part in (final, best):
        file = folder / "snapshots" / f"{part['images']:09d}.safetensors"
        assert part["weights_sha256"] == sha256(file)
        assert [block["start"] for block in part["blocks"]] == [0, 80]
        assert part["mean"].keys() == KEYS
        (point,) = (point for point in curve if point["images"] == part["images"])
        assert part["blocks"][0]["fid"] == point["fid"]  # curves are of the first block
        assert part["blocks"][0]["fid"] != part["blocks"][1]["fid"]


def test_the_number_is_the_distance_of_the_images_of_fixed_latents(
    world: Any, tmp_path: Path, references: Any
) -> None:
    metrics = evaluate_run(make_run(world, tmp_path), EVALUATION, references)
    generator = load_generator(tmp_path / "snapshots" / "000000048.safetensors")
    for number, block in enumerate(metrics["final"]["blocks"]):
        images = quantise(generate(generator, 80 * number, 80))
        for space, key in (("one", "fid"), ("pixels", "pixel_fid")):
            judge = references[space]
            moments = Moments(judge.extractor.dimension)
            moments.update(judge.extractor(images))
            expected = frechet_distance(moments.gaussian(), judge.reference.gaussian)
            assert block[key] == pytest.approx(expected, rel=1e-3)


def test_the_best_may_be_the_final(world: Any, tmp_path: Path, references: Any) -> None:
    metrics = evaluate_run(make_run(world, tmp_path, counts=(16,)), EVALUATION, references)
    assert {key: metrics["best"][key] for key in metrics["final"]} == metrics["final"]


def test_snapshots_that_are_asked_for_are_judged_in_full(world: Any, tmp_path: Path, references: Any) -> None:
    evaluation = EVALUATION.model_copy(update={"also_at": (32, 48, 999)})
    metrics = evaluate_run(make_run(world, tmp_path), evaluation, references)
    assert list(metrics["also_at"]) == ["32"]  # the last one is there anyway, and there is no 999
    also, (point,) = metrics["also_at"]["32"], (one for one in metrics["curve"] if one["images"] == 32)
    assert also["images"] == 32
    assert also["mean"].keys() == KEYS
    assert also["blocks"][0]["fid"] == point["fid"]
    assert [block["start"] for block in also["blocks"]] == [0, 80]


@pytest.mark.parametrize("conditional", [False, True], ids=["unconditional", "conditional"])
def test_a_teacher_is_judged_at_its_steps(
    world: Any, tmp_path: Path, references: Any, conditional: bool
) -> None:
    model, sampler = world.teachers[conditional], Sampler(steps=3)
    source = TeacherSource(model, sampler)
    out, samples = tmp_path / "metrics.json", tmp_path / "samples.npz"
    metrics = evaluate_in_setting(source, EVALUATION, references, out, samples)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert metrics["evaluations"] == 5
    assert metrics["final"]["weights_sha256"] == sha256(model)
    assert metrics["final"]["mean"].keys() == KEYS
    images = np.load(samples)["images"]
    expected = quantise(sample_range(load_denoiser(model), sampler, EVALUATION_SEED, 0, SAMPLES))
    assert np.array_equal(images, expected.numpy())


def test_the_judge_alone_is_enough(world: Any, tmp_path: Path, folder: Path) -> None:
    evaluation = Evaluation(extractor="one", samples=40)
    judges = judges_of(world, folder, evaluation)
    metrics = evaluate_run(make_run(world, tmp_path, counts=(16,)), evaluation, judges)
    assert metrics["final"]["mean"].keys() == {"fid", "precision", "recall", "density", "coverage"}
    assert metrics["final"]["sampling_std"]["fid"] is None
    assert "pixel_fid" not in metrics["floor"]


def test_beside_the_numbers_stands_what_they_mean(world: Any, tmp_path: Path, references: Any) -> None:
    metrics = evaluate_run(make_run(world, tmp_path, counts=(16,)), EVALUATION, references)
    provenance = metrics["provenance"]
    assert provenance["dataset_sha256"] == world.data.sha256
    assert provenance["extractor_sha256"] == sha256(world.backbones["one"])
    assert (provenance["samples"], provenance["blocks"], provenance["latent_seed"]) == (80, 2, 0)
    assert provenance["reference_images"] == 88
    assert provenance.keys() >= {"revision", "torch", "device", "threads"}
    assert "host" not in provenance
    assert metrics["floor"]["precision"] == references["one"].reference.description.floor.precision
    assert "penultimate features" in metrics["definitions"]["fid"]
    assert "raw pixels" in metrics["definitions"]["pixel_fid"]


def test_a_summary_is_over_blocks() -> None:
    blocks = [{"start": 0, "fid": 1.0, "recall": 0.5}, {"start": 9, "fid": 4.0, "recall": 0.5}]
    found = summary(blocks)
    assert found["blocks"] == blocks
    assert found["mean"] == {"fid": 2.5, "recall": 0.5}
    assert found["sampling_std"] == pytest.approx({"fid": 4.5**0.5, "recall": 0.0})
    assert found["minimum"] == {"fid": 1.0, "recall": 0.5}
    assert summary(blocks[:1])["sampling_std"] == {"fid": None, "recall": None}


def test_a_run_without_snapshots(tmp_path: Path, references: Any) -> None:
    with pytest.raises(UserError, match="has no snapshots; train it first"):
        evaluate_run(tmp_path, EVALUATION, references)


def test_a_reference_of_another_judge_or_of_other_images_is_refused(
    world: Any, folder: Path, references: Any
) -> None:
    with pytest.raises(UserError, match="build the reference again"):
        judges_of(world, folder, judge="two")
    source = open_source(world.teachers[True], sampler=Sampler(steps=1))
    check_data(source, references, world.data)
    with pytest.raises(UserError, match="was made from other images than the data set holds now"):
        check_data(source, references, replace(world.data, description={"name": "x", "sha256": "b" * 64}))
    unlabelled = replace(world.data, labels=np.zeros(44, np.int64))
    with pytest.raises(
        UserError, match="conditioned on 4 classes, for which the data set blobs has no labels"
    ):
        check_data(source, references, unlabelled)


def test_every_metric_that_a_setting_lists(world: Any, tmp_path: Path, folder: Path) -> None:
    evaluation = Evaluation(extractor="one", samples=80, blocks=2, metrics=("fid", "kid", "pixel_recall"))
    metrics = evaluate_run(make_run(world, tmp_path), evaluation, judges_of(world, folder, evaluation))
    assert all(point.keys() == {"images", "fid"} for point in metrics["curve"])
    for part in (metrics["final"], metrics["best"]):
        assert part["mean"].keys() == {"fid", "kid", "pixel_recall"}
        assert part["minimum"]["fid"] == min(block["fid"] for block in part["blocks"])
    assert metrics["definitions"].keys() == {"fid", "kid", "pixel_recall"}
    usual = evaluate_run(make_run(world, tmp_path / "usual"), EVALUATION, judges_of(world, folder))
    assert usual["final"]["mean"]["fid"] == metrics["final"]["mean"]["fid"]


def test_judging_computes_where_it_is_told_to(
    world: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU is needed to see where networks are sent: what is sent stays, and is written down."""
    sent: list[tuple[str, str]] = []

    def to(self: torch.nn.Module, device: Any = None, **others: Any) -> torch.nn.Module:
        sent.append((type(self).__name__, str(device)))
        return self

    named: list[Any] = []
    evaluation = EVALUATION.model_copy(update={"pixels": False, "samples": 40, "blocks": 1})
    judges = judges_of(world, folder, evaluation)
    monkeypatch.setattr(torch.nn.Module, "to", to)
    monkeypatch.setattr(stages, "environment", lambda device: named.append(device) or {})
    evaluate_run(make_run(world, tmp_path, counts=(16,)), evaluation, judges, device="cuda:1")
    assert ("OneStepGenerator", "cuda:1") in sent
    assert named == ["cuda:1"]
    sent.clear()
    assert judges_of(world, folder, evaluation, device="cuda:1")
    assert ("SmallClassifier", "cuda:1") in sent
