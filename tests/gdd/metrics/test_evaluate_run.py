"""How the snapshots of a run are evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gdd.config.metrics import by_extractor
from gdd.config.records import Evaluation
from gdd.data.image_array import quantise
from gdd.distill.generate import generate
from gdd.errors import UserError
from gdd.files import sha256
from gdd.metrics import evaluate
from gdd.metrics.build_reference import build_reference
from gdd.metrics.evaluate import BLOCKS, evaluate_run
from gdd.metrics.extractors import open_extractor
from gdd.metrics.frechet import Moments, frechet_distance
from gdd.metrics.reference import open_comparisons
from gdd.networks.checkpoint import load_denoiser, load_generator, save_network
from gdd.networks.preconditioning import OneStepGenerator

pytestmark = pytest.mark.slow

EVALUATION = Evaluation(extractor="one", pixels=True, samples=80, blocks=2)
KEYS = {*EVALUATION.wanted()}


@pytest.fixture(scope="module")
def references(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world's features and pixels, of twice as many images as it has: pixels are 64 features."""
    folder, images = tmp_path_factory.mktemp("references"), np.concatenate([toy.data.images] * 2)
    images[44:] = 255 - images[44:]
    of = {"dataset": "blobs", "dataset_sha256": toy.data.sha256}
    for name in ("one", "pixels"):
        extractor = open_extractor(name, toy.backbones["one"], toy.data.shape)
        build_reference(images, extractor, path=folder / f"{name}.npz", **of)
    return folder


def compared(toy: Any, folder: Path, evaluation: Evaluation = EVALUATION) -> Any:
    wanted = by_extractor(evaluation.wanted(), "one")
    return open_comparisons(toy.data.shape, folder, wanted, weights={"one": toy.backbones["one"]})


@pytest.fixture
def comparisons(toy: Any, references: Path) -> Any:
    return compared(toy, references)


def make_run(toy: Any, folder: Path, scales: tuple[float, ...] = (1, 2, 3)) -> Path:
    """Write snapshots at 16, 32, ... images that drift away from the teacher."""
    for index, scale in enumerate(scales, 1):
        generator = OneStepGenerator.from_denoiser(load_denoiser(toy.teachers[False]))
        with torch.no_grad():
            generator.model.dec["8x8_aux_conv"].weight *= scale
        save_network(folder / "snapshots" / f"{16 * index:09d}.safetensors", generator)
    return folder


def test_a_run_has_a_curve_a_final_and_a_best_snapshot(toy: Any, tmp_path: Path, comparisons: Any) -> None:
    folder = make_run(toy, tmp_path)
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


def test_the_numbers_are_of_fixed_latents_and_say_what_they_mean(
    toy: Any, tmp_path: Path, comparisons: Any
) -> None:
    metrics = evaluate_run(make_run(toy, tmp_path, scales=(1,)), EVALUATION, comparisons)
    assert {key: metrics["best"][key] for key in metrics["final"]} == metrics["final"]
    generator = load_generator(tmp_path / "snapshots" / "000000016.safetensors")
    for number, block in enumerate(metrics["final"]["blocks"]):
        images = quantise(generate(generator, 80 * number, 80))
        for name, key in (("one", "fid"), ("pixels", "pixel_fid")):
            extractor, real = comparisons[name].extractor, comparisons[name].reference.gaussian
            gaussian = Moments.of(extractor.dimension, [extractor(images)]).gaussian()
            assert block[key] == pytest.approx(frechet_distance(gaussian, real), rel=1e-3)

    provenance = metrics["provenance"]
    assert provenance["dataset_sha256"] == toy.data.sha256
    assert provenance["extractor_sha256"] == sha256(toy.backbones["one"])
    assert (provenance["samples"], provenance["blocks"], provenance["latent_seed"]) == (80, 2, 0)
    assert provenance["reference_images"] == 88
    assert provenance.keys() >= {"revision", "torch", "device", "threads"}
    assert metrics["floor"].keys() == KEYS - {"pixel_fid"}  # of which 44 images a half are too few
    assert metrics["floor"]["precision"] == comparisons["one"].reference.floor("precision")
    assert "raw pixels" in metrics["definitions"]["pixel_fid"]


def test_the_metrics_that_a_setting_lists(toy: Any, tmp_path: Path, references: Path) -> None:
    evaluation = Evaluation(extractor="one", samples=80, metrics=("fid", "kid", "pixel_recall"))
    listed = evaluate_run(make_run(toy, tmp_path), evaluation, compared(toy, references, evaluation))
    assert all(point.keys() == {"images", "fid"} for point in listed["curve"])
    for part in (listed["final"], listed["best"]):
        assert part["mean"].keys() == listed["definitions"].keys() == {"fid", "kid", "pixel_recall"}


def test_an_interrupted_evaluation_goes_on(
    toy: Any, tmp_path: Path, comparisons: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, folder = (make_run(toy, tmp_path / name, scales=(1, 3, 2)) for name in ("whole", "killed"))
    expected, original = evaluate_run(whole, EVALUATION, comparisons), evaluate._extract
    done: list[tuple[str, int]] = []
    most = 0

    def count(source: Any, comparisons: Any, start: int, *options: Any) -> Any:
        if len(done) == most:
            raise KeyboardInterrupt
        done.append((Path(source.name).stem, start))
        return original(source, comparisons, start, *options)

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


def test_the_curve_keeps_snapshots_that_were_removed(toy: Any, tmp_path: Path, references: Path) -> None:
    run = make_run(toy, tmp_path, scales=(1, 3, 2))
    before = evaluate_run(run, EVALUATION, compared(toy, references))
    (gone,) = {16, 32} - {before["best"]["images"]}
    (run / "snapshots" / f"{gone:09d}.safetensors").unlink()
    more = Evaluation(extractor="one", samples=80, blocks=2, metrics=("fid", "kid", "pixel_fid"))
    after = evaluate_run(run, more, compared(toy, references, more))
    assert after["curve"] == before["curve"]
    assert after["best"]["images"] == before["best"]["images"]
    assert "kid" in after["final"]["mean"]
    # Of another number of images, the old numbers do not count.
    fewer = more.model_copy(update={"samples": 70})
    curve = evaluate_run(run, fewer, compared(toy, references, fewer))["curve"]
    assert gone not in [point["images"] for point in curve]


def test_a_snapshot_that_diverged_has_no_numbers(
    toy: Any, tmp_path: Path, comparisons: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(toy, tmp_path, scales=(1, float("nan")))
    metrics = evaluate_run(run, EVALUATION, comparisons)
    assert metrics["curve"][1] == {"images": 32}
    assert (metrics["final"]["mean"], metrics["best"]["images"]) == ({}, 16)
    assert "Block 1 has no metrics" in caplog.text


@pytest.mark.parametrize("at", [20, -1], ids=["header", "weights"])
def test_a_damaged_snapshot_is_named_as_damaged(toy: Any, tmp_path: Path, comparisons: Any, at: int) -> None:
    run = make_run(toy, tmp_path, scales=(1, 2))
    files = sorted((run / "snapshots").iterdir())
    facts = {"recipe_hash": "0" * 16, "seed": 3, "snapshots": {file.stem: sha256(file) for file in files}}
    (run / "run.json").write_text(json.dumps(facts))
    metrics = evaluate_run(run, EVALUATION, comparisons)
    assert (metrics["recipe_hash"], metrics["seed"]) == ("0" * 16, 3)
    assert metrics["final"]["weights_sha256"] == facts["snapshots"]["000000032"]
    content = bytearray(files[0].read_bytes())
    content[at] = 0x7F  # of the last number: its sign and exponent
    files[0].write_bytes(content)
    with pytest.raises(
        UserError, match=r"000000016.safetensors is damaged: .* `snakemake --cores 2 .*metrics"
    ):
        evaluate_run(run, EVALUATION, comparisons)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("[]", "holds a list instead of a dict"), ('{"snapshots": 3}', "'snapshots' holds no hashes by name")],
)
def test_a_damaged_run_json_is_one_sentence(
    toy: Any, tmp_path: Path, comparisons: Any, content: str, sentence: str
) -> None:
    run = make_run(toy, tmp_path, scales=(1,))
    (run / "run.json").write_text(content)
    with pytest.raises(UserError) as caught:
        evaluate_run(run, EVALUATION, comparisons)
    assert f"{run}/run.json" in str(caught.value)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("content", ["{}", '{"metrics": 3, "result": 3}', '{"metrics": {}, "result": {}}'])
def test_what_is_no_block_is_evaluated_again(
    toy: Any, tmp_path: Path, comparisons: Any, content: str
) -> None:
    run = make_run(toy, tmp_path, scales=(1,))
    before = evaluate_run(run, EVALUATION, comparisons)["final"]
    (block,) = (run / BLOCKS).glob("*.block0.json")
    block.write_text(content)
    block.with_name("000000001.block0.json").write_text(content)  # of a snapshot that is not there
    (run / "snapshots/last.safetensors").write_bytes(b"")  # which is none of the run's
    assert evaluate_run(run, EVALUATION, comparisons)["final"] == before
    block.write_text("[]")
    with pytest.raises(UserError, match=r"block0\.json holds a list instead of a dict"):
        evaluate_run(run, EVALUATION, comparisons)


def test_a_run_without_snapshots_is_refused(tmp_path: Path, comparisons: Any) -> None:
    with pytest.raises(UserError, match="has no snapshots; train it first"):
        evaluate_run(tmp_path, EVALUATION, comparisons)
