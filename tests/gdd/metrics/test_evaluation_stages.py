"""How a setting evaluates the snapshots of a run, and a teacher."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judged_runs import EVALUATION, compared_with, make_run, write_references

from gdd.config.evaluation import Evaluation
from gdd.config.recipe import Sampler
from gdd.data.image_array import quantise
from gdd.diffusion.sampling import sample_range
from gdd.distill.generate import EVALUATION_SEED, SAMPLES, generate
from gdd.errors import UserError
from gdd.files import sha256
from gdd.metrics import evaluate
from gdd.metrics.frechet import Moments, frechet_distance
from gdd.metrics.sources import open_source
from gdd.metrics.stages import check_data, evaluate_in_setting, evaluate_run
from gdd.networks.checkpoint import load_denoiser, load_generator, save_network
from gdd.networks.preconditioning import OneStepGenerator

pytestmark = pytest.mark.slow

KEYS = {*EVALUATION.wanted()}


@pytest.fixture(scope="module")
def references(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_references(world, tmp_path_factory.mktemp("references"))


@pytest.fixture
def comparisons(world: Any, references: Path) -> Any:
    return compared_with(world, references)


@pytest.mark.parametrize("conditional", [False, True], ids=["unconditional", "conditional"])
def test_a_run_has_a_curve_a_final_and_a_best_snapshot(
    world: Any, tmp_path: Path, comparisons: Any, conditional: bool
) -> None:
    folder = make_run(world, tmp_path, conditional)
    evaluation = EVALUATION.model_copy(update={"also_at": (32, 48, 999)})
    metrics = evaluate_run(folder, evaluation, comparisons)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert (metrics["kind"], metrics["evaluations"]) == ("student", 1)
    curve = {point["images"]: point for point in metrics["curve"]}
    assert [*curve] == [16, 32, 48]
    assert all(point.keys() == {"images", "fid", "pixel_fid"} for point in curve.values())
    final, best, also = metrics["final"], metrics["best"], metrics["also_at"]
    assert (final["images"], [*also]) == (48, ["32"])  # the last one is there anyway, and there is no 999
    assert best["images"] == min(curve, key=lambda images: curve[images]["fid"])
    assert "lowest fid" in best["rule"]
    for part in (final, best, also["32"]):
        assert part["weights_sha256"] == sha256(folder / "snapshots" / f"{part['images']:09d}.safetensors")
        assert [block["start"] for block in part["blocks"]] == [0, 80]
        assert part["mean"].keys() == KEYS
        assert part["blocks"][0]["fid"] == curve[part["images"]]["fid"] != part["blocks"][1]["fid"]


def test_the_number_is_the_distance_of_the_images_of_fixed_latents(
    world: Any, tmp_path: Path, comparisons: Any
) -> None:
    metrics = evaluate_run(make_run(world, tmp_path, counts=(16,)), EVALUATION, comparisons)
    assert {key: metrics["best"][key] for key in metrics["final"]} == metrics["final"]
    generator = load_generator(tmp_path / "snapshots" / "000000016.safetensors")
    for number, block in enumerate(metrics["final"]["blocks"]):
        images = quantise(generate(generator, 80 * number, 80))
        for name, key in (("one", "fid"), ("pixels", "pixel_fid")):
            extractor, real = comparisons[name].extractor, comparisons[name].reference.gaussian
            gaussian = Moments.of(extractor.dimension, [extractor(images)]).gaussian()
            assert block[key] == pytest.approx(frechet_distance(gaussian, real), rel=1e-3)


def test_beside_the_numbers_stands_what_they_mean(world: Any, tmp_path: Path, comparisons: Any) -> None:
    metrics = evaluate_run(make_run(world, tmp_path, counts=(16,)), EVALUATION, comparisons)
    provenance = metrics["provenance"]
    assert provenance["dataset_sha256"] == world.data.sha256
    assert provenance["extractor_sha256"] == sha256(world.backbones["one"])
    assert (provenance["samples"], provenance["blocks"], provenance["latent_seed"]) == (80, 2, 0)
    assert provenance["reference_images"] == 88
    assert provenance.keys() >= {"revision", "torch", "device", "threads"}
    assert "host" not in provenance
    assert metrics["floor"].keys() == KEYS - {"pixel_fid"}  # of which 44 images a half are too few
    assert metrics["floor"]["precision"] == comparisons["one"].reference.floor("precision")
    assert "penultimate features" in metrics["definitions"]["fid"]
    assert "raw pixels" in metrics["definitions"]["pixel_fid"]


def test_the_metrics_that_a_setting_lists(world: Any, tmp_path: Path, references: Path) -> None:
    evaluation = Evaluation(extractor="one", samples=80, metrics=("fid", "kid", "pixel_recall"))
    listed = evaluate_run(make_run(world, tmp_path), evaluation, compared_with(world, references, evaluation))
    assert all(point.keys() == {"images", "fid"} for point in listed["curve"])
    for part in (listed["final"], listed["best"]):
        assert part["mean"].keys() == listed["definitions"].keys() == {"fid", "kid", "pixel_recall"}
    usual = Evaluation(extractor="one", samples=80)
    metrics = evaluate_run(tmp_path, usual, compared_with(world, references, usual))
    assert metrics["final"]["mean"].keys() == {"fid", "precision", "recall", "density", "coverage"}
    assert metrics["final"]["mean"]["fid"] == listed["final"]["mean"]["fid"]


@pytest.mark.parametrize("conditional", [False, True], ids=["unconditional", "conditional"])
def test_a_teacher_is_evaluated_at_its_steps(
    world: Any, tmp_path: Path, comparisons: Any, conditional: bool
) -> None:
    model, sampler = world.teachers[conditional], Sampler(steps=3)
    out, samples = tmp_path / "metrics.json", tmp_path / "samples.npz"
    metrics = evaluate_in_setting(open_source(model, sampler=sampler), EVALUATION, comparisons, out, samples)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert metrics["evaluations"] == 5
    assert metrics["final"]["weights_sha256"] == sha256(model)
    assert metrics["final"]["mean"].keys() == KEYS
    expected = quantise(sample_range(load_denoiser(model), sampler, EVALUATION_SEED, 0, SAMPLES))
    assert np.array_equal(np.load(samples)["images"], expected.numpy())


def test_images_are_evaluated_on_as_many_blocks_as_there_are(
    world: Any, tmp_path: Path, comparisons: Any
) -> None:
    images = open_source(world.teachers[False], sampler=Sampler(steps=1)).images(0, 100).numpy()
    np.savez(tmp_path / "images.npz", images=images)
    source, files = open_source(tmp_path / "images.npz"), (tmp_path / "m.json", tmp_path / "s.npz")
    metrics = evaluate_in_setting(source, EVALUATION, comparisons, *files)
    assert len(metrics["final"]["blocks"]) == metrics["provenance"]["blocks"] == 1
    more = EVALUATION.model_copy(update={"samples": 101})
    with pytest.raises(UserError, match="holds 100 images, but the setting evaluates 101 at once"):
        evaluate_in_setting(source, more, comparisons, *files)


def test_an_interrupted_evaluation_goes_on(
    world: Any, tmp_path: Path, comparisons: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, folder = (make_run(world, tmp_path / name, scales=(1, 3, 2)) for name in ("whole", "killed"))
    expected, original = evaluate_run(whole, EVALUATION, comparisons), evaluate._extract
    done: list[tuple[str, int]] = []
    most = 0

    def count(source: Any, asked: Any, start: int, *options: Any) -> Any:
        if len(done) == most:
            raise KeyboardInterrupt
        done.append((Path(source.name).stem, start))
        return original(source, asked, start, *options)

    monkeypatch.setattr(evaluate, "_extract", count)
    for most in range(1, 6):  # noqa: B007
        with pytest.raises(KeyboardInterrupt):
            evaluate_run(folder, EVALUATION, comparisons)
    most = -1
    metrics = evaluate_run(folder, EVALUATION, comparisons)
    assert {**metrics, "seconds": 0} == {**expected, "seconds": 0}
    # The last snapshot on both blocks, the others on the first; then the best on both, with every metric.
    best = f"{metrics['best']['images']:09d}"
    passes = [("000000048", 0), ("000000048", 80), ("000000016", 0), ("000000032", 0), (best, 0), (best, 80)]
    assert sorted(done) == sorted(passes)
    # Once more, nothing is done.
    evaluate_run(folder, EVALUATION, comparisons)
    assert len(done) == len(passes)


def test_the_curve_keeps_snapshots_that_were_removed(world: Any, tmp_path: Path, references: Path) -> None:
    run = make_run(world, tmp_path, scales=(1, 3, 2))
    before = evaluate_run(run, EVALUATION, compared_with(world, references))
    (gone,) = {16, 32} - {before["best"]["images"]}
    (run / "snapshots" / f"{gone:09d}.safetensors").unlink()
    more = Evaluation(extractor="one", samples=80, blocks=2, metrics=("fid", "kid", "pixel_fid"))
    after = evaluate_run(run, more, compared_with(world, references, more))
    assert after["curve"] == before["curve"]
    assert after["best"]["images"] == before["best"]["images"]
    assert "kid" in after["final"]["mean"]
    # Of another number of images, the old numbers do not count.
    fewer = more.model_copy(update={"samples": 70})
    curve = evaluate_run(run, fewer, compared_with(world, references, fewer))["curve"]
    assert gone not in [point["images"] for point in curve]


def test_a_snapshot_that_diverged_has_no_numbers(
    world: Any, tmp_path: Path, comparisons: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(world, tmp_path, counts=(16,))
    broken = OneStepGenerator.from_denoiser(load_denoiser(world.teachers[False]))
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    save_network(run / "snapshots" / "000000032.safetensors", broken)
    metrics = evaluate_run(run, EVALUATION, comparisons)
    assert metrics["curve"][1] == {"images": 32}
    assert (metrics["final"]["mean"], metrics["best"]["images"]) == ({}, 16)
    assert "Block 1 has no metrics" in caplog.text


def test_what_does_not_fit_is_refused(world: Any, tmp_path: Path, references: Path, comparisons: Any) -> None:
    with pytest.raises(UserError, match="has no snapshots; train it first"):
        evaluate_run(tmp_path, EVALUATION, comparisons)
    with pytest.raises(UserError, match="build the reference again"):
        compared_with(world, references, weights="two")
    source = open_source(world.teachers[True], sampler=Sampler(steps=1))
    check_data(source, comparisons, world.data)
    with pytest.raises(UserError, match="was made from other images than the data set holds now"):
        check_data(source, comparisons, replace(world.data, description={"name": "x", "sha256": "b" * 64}))
    unlabelled = replace(world.data, labels=np.zeros(44, np.int64))
    with pytest.raises(
        UserError, match="conditioned on 4 classes, for which the data set blobs has no labels"
    ):
        check_data(source, comparisons, unlabelled)
