"""One pass over a block of images: every metric, what it says of itself, and what an interruption leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inception_stand_in import StandIn, save_script, some_images
from torch import Tensor

from gdd.config.metrics import METRICS, Metric, by_extractor
from gdd.errors import DivergedError, UserError
from gdd.files import sha256
from gdd.metrics.build_reference import build_reference
from gdd.metrics.evaluate import evaluate_source, over_blocks
from gdd.metrics.extractors import open_extractor
from gdd.metrics.feature_sets import kernel_distance, nearest_ratio, neighbour_metrics
from gdd.metrics.frechet import Moments, frechet_distance
from gdd.metrics.inception import inception_score
from gdd.metrics.reference import Comparison, load_reference, open_comparisons
from gdd.metrics.sources import Source, open_source
from gdd.randomness import seeded_weights

pytestmark = pytest.mark.slow

EVERYTHING = [name for name in METRICS if name not in ("clip_fid", "fd_dinov2")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for Inception with 12 features, and references of 4x4 images by it and by their pixels."""
    folder, real = tmp_path_factory.mktemp("references"), some_images(80, 4, seed=1)
    with seeded_weights(0):
        save_script(StandIn(3, 2, 11), folder / "net.pt")
    trusted = [sha256(folder / "net.pt")]
    for name in ("inception", "inception-clean", "pixels"):
        extractor, path = (
            open_extractor(name, folder / "net.pt", (3, 4, 4), trusted=trusted),
            folder / f"{name}.npz",
        )
        build_reference(real.numpy(), extractor, dataset="noise", dataset_sha256="a" * 64, path=path)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Source:
    fakes = some_images(180, 4, seed=2) // 2 + 60
    fakes[60] = some_images(80, 4, seed=1)[3]
    np.savez(tmp_path / "fakes.npz", images=fakes.numpy())
    return open_source(tmp_path / "fakes.npz")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.json"


def compared(folder: Path, metrics: Any = ("fid",), **options: Any) -> dict[str, Comparison]:
    """Open what the command line would open."""
    weights = dict.fromkeys(("inception", "inception-clean", "clip"), folder / "net.pt")
    options = {"shape": (3, 4, 4), "reference": folder, "weights": weights, **options}
    options["trusted"] = [sha256(folder / "net.pt")]
    return open_comparisons(wanted=by_extractor(metrics, "inception"), **options)


def test_one_pass_gives_every_metric(source: Source, folder: Path, out: Path) -> None:
    comparisons = compared(folder, EVERYTHING)
    seen: list[int] = []

    def draw(start: int, count: int) -> Tensor:
        seen.append(count)
        return source.images(start, count)

    first, second = evaluate_source(replace(source, images=draw), comparisons, out, 60, 2)["final"]["blocks"]
    assert sum(seen) == 120
    assert (first["start"], second["start"]) == (0, 60)
    assert first.keys() == {"start", "inception_score_std", *EVERYTHING}

    for name, prefix in (("inception", ""), ("inception-clean", "clean_"), ("pixels", "pixel_")):
        extractor, reference = comparisons[name].extractor, comparisons[name].reference
        features = extractor(source.images(60, 60))
        expected: dict[str, Any] = neighbour_metrics(reference.rows, features)._asdict()
        expected["kid"] = kernel_distance(reference.rows, features)
        gaussian = Moments.of(extractor.dimension, [features]).gaussian()
        expected["fid"] = frechet_distance(reference.gaussian, gaussian)
        found = {key: second[f"{prefix}{key}"] for key in expected if f"{prefix}{key}" in METRICS}
        assert found == pytest.approx({key: expected[key] for key in found}, rel=1e-9)
        if name == "inception":
            score = inception_score(extractor.probabilities(features))  # type: ignore[attr-defined]
            assert (second["inception_score"], second["inception_score_std"]) == pytest.approx(tuple(score))
        if name == "pixels":
            assert second["nearest"] == nearest_ratio(reference.rows, features)


def test_a_new_metric_is_one_entry(
    source: Source, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shift(real: Tensor, fake: Tensor) -> float:
        return float((real.mean(0) - fake.mean(0)).norm())

    new = Metric(
        title="Shift", needs="features", function=shift, better="lower", definition="distance of means"
    )
    monkeypatch.setitem(METRICS, "shift", new)
    comparisons = compared(folder, ["fid", "shift"])
    outcome = evaluate_source(source, comparisons, out, 60, 1)
    (comparison,) = comparisons.values()
    features = comparison.extractor(source.images(0, 60))
    expected = shift(comparison.reference.rows, features)
    assert outcome["final"]["mean"]["shift"] == pytest.approx(expected, rel=1e-6)
    meant = (
        "distance of means, of 60 generated images against 80 of noise, on 12 pool features of the Inception"
    )
    assert outcome["definitions"]["shift"].startswith(meant)
    # A reference that is built now has its floor.
    images, path = some_images(80, 4, seed=1).numpy(), out.with_name("r.npz")
    build_reference(images, comparison.extractor, dataset="noise", dataset_sha256="a" * 64, path=path)
    assert load_reference(path).floor("shift") == pytest.approx(0.1, abs=0.1)


def test_the_outcome_says_what_it_is(source: Source, folder: Path, out: Path) -> None:
    metrics = ["pixel_recall", "recall", "clean-fid", "fid", "nearest", "inception_score"]
    outcome = evaluate_source(source, compared(folder, metrics), out, 60, 9)
    assert (outcome["kind"], outcome["evaluations"]) == ("images", None)
    assert outcome["provenance"]["blocks"] == len(outcome["final"]["blocks"]) == 3  # as many as there are
    assert outcome["provenance"]["extractor"] == "inception"
    assert outcome["definitions"].keys() == {metric.replace("-", "_") for metric in metrics}
    assert "of 60 generated images against 80 of noise, on 12 pool" in outcome["definitions"]["fid"]
    assert "against" not in outcome["definitions"]["inception_score"]
    assert "clean-fid's resize" in outcome["definitions"]["clean_fid"]
    assert "clean-fid's resize" not in outcome["definitions"]["recall"]
    assert outcome["floor"].keys() == outcome["definitions"].keys() - {"inception_score"}
    assert outcome["references"]["pixels"]["dataset"] == "noise"


def test_a_summary_is_over_blocks() -> None:
    blocks = [{"start": 0, "fid": 1.0, "recall": 0.5}, {"start": 9, "fid": 4.0, "recall": 0.5}]
    found = over_blocks(blocks)
    assert found["blocks"] == blocks
    assert found["mean"] == {"fid": 2.5, "recall": 0.5}
    assert found["sampling_std"] == pytest.approx({"fid": 4.5**0.5, "recall": 0.0})
    assert found["minimum"] == {"fid": 1.0, "recall": 0.5}
    assert over_blocks(blocks[:1])["sampling_std"] == {"fid": None, "recall": None}
    assert over_blocks([*blocks, {"start": 18}])["mean"] == {}


def test_order_and_batches_change_nothing(source: Source, folder: Path, out: Path) -> None:
    metrics = ("fid", "precision", "recall")
    images = source.images(0, 180)[torch.from_numpy(np.random.default_rng(0).permutation(180))]
    shuffled = replace(
        source, sha256="b" * 64, batch=7, images=lambda start, count: images[start : start + count]
    )
    expected, found = (
        evaluate_source(of, compared(folder, metrics), out, 180, 1)["final"]["mean"]
        for of in (source, shuffled)
    )
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_block_that_is_done_is_not_done_again(source: Source, folder: Path, out: Path) -> None:
    seen: list[int] = []

    def run(blocks: int, metrics: Any = ("fid", "kid"), fail: bool = False, **changes: Any) -> Any:
        def draw(start: int, count: int) -> Tensor:
            if fail and start == 24:
                raise KeyboardInterrupt
            seen.append(start)
            return source.images(start, count)

        changed = replace(source, images=draw, **changes)
        return evaluate_source(changed, compared(folder, metrics), out, 24, blocks)["final"]["blocks"]

    with pytest.raises(KeyboardInterrupt):
        run(2, fail=True)
    first = run(2)
    assert seen == [0, 24]
    assert run(3)[:2] == first
    assert run(1, metrics=("kid",)) == [{key: first[0][key] for key in ("start", "kid")}]
    assert seen == [0, 24, 48]
    # Other inputs: a metric that is not there, weights, facts.
    for number, changes in enumerate(
        ({"metrics": ("recall",)}, {"sha256": "c" * 64}, {"facts": {"seed": 1}})
    ):
        run(1, **changes)
        assert len(seen) == 4 + number


def test_published_statistics_are_a_reference_for_the_distance_alone(
    source: Source, folder: Path, tmp_path: Path, out: Path
) -> None:
    own = load_reference(folder / "inception.npz").gaussian
    expected = evaluate_source(source, compared(folder), out, 60, 1)["final"]["mean"]["fid"]

    def written(name: str, **others: Any) -> Path:
        np.savez(tmp_path / name, mu=own.mean.numpy(), sigma=own.covariance.numpy(), **others)
        return tmp_path / f"{name}.npz"

    path = written("noise-4x4")
    outcome = evaluate_source(source, compared(folder, reference=path), out, 60, 1)
    assert outcome["final"]["mean"]["fid"] == pytest.approx(expected, rel=1e-9)
    assert "against published statistics of noise" in outcome["definitions"]["fid"]
    found = outcome["references"]["inception"]
    assert (found["count"], found["dataset"], outcome["floor"]) == (None, "noise", {})
    # ADM's batches are images and statistics in one file, whose name says no resolution.
    batch = written("VIRTUAL_noise", arr_0=source.images(0, 80).numpy())
    assert open_source(batch).count == 80
    assert compared(folder, reference=batch)["inception"].reference.gaussian.dimension == 12

    with pytest.raises(UserError, match=r"published statistics of noise .* allow no precision"):
        evaluate_source(source, compared(folder, ["precision"], reference=path), out, 60, 1)
    with pytest.raises(UserError, match=r"the extractor inception .* of inception-clean"):
        compared(folder, ["clean_fid"], reference=path)
    with pytest.raises(UserError, match="at resolution 32"):
        compared(folder, reference=written("noise-32x32"))


def test_bad_requests_are_refused_before_anything_is_generated(
    source: Source, folder: Path, out: Path
) -> None:
    with pytest.raises(UserError, match="is one file, but inception and pixels are needed"):
        compared(folder, ["fid", "pixel_fid"], reference=folder / "inception.npz")
    with pytest.raises(UserError, match=r"clip\.npz does not exist; build it with `gdd reference`"):
        compared(folder, ["clip_fid"])

    def never(start: int, count: int) -> Tensor:
        raise AssertionError("generated")

    def diverged(start: int, count: int) -> Tensor:
        raise DivergedError("3 of 60 images hold NaN")

    unseen, comparisons = replace(source, images=never), compared(folder)
    with pytest.raises(UserError, match="12 images are too few for 'fid': the covariance of 12 features of"):
        evaluate_source(unseen, comparisons, out, 12, 1)
    with pytest.raises(UserError, match="holds 180 images, but 181 are evaluated at once"):
        evaluate_source(unseen, comparisons, out, 181, 1)
    (pixels,) = compared(folder, ["pixel_fid"]).values()
    with pytest.raises(UserError, match="The extractor pixels gives no class probabilities; leave out"):
        evaluate_source(unseen, {"pixels": replace(pixels, metrics=("inception_score",))}, out, 60, 1)
    with pytest.raises(DivergedError, match="3 of 60"):
        evaluate_source(replace(source, images=diverged), comparisons, out, 60, 1)
