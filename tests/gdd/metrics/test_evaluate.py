"""One pass over a block of images: every metric, what it says of itself, and what an interruption leaves."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
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
from gdd.metrics import evaluate
from gdd.metrics.comparison import Comparison, open_comparisons
from gdd.metrics.evaluate import evaluate_source, over_blocks, settle_counts
from gdd.metrics.extractors import open_extractor
from gdd.metrics.frechet import Moments, frechet_distance
from gdd.metrics.inception import inception_score
from gdd.metrics.kid import kernel_distance
from gdd.metrics.neighbours import nearest_ratio, neighbour_metrics
from gdd.metrics.reference import build_reference
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
    for name in ("inception", "inception-clean", "pixels"):
        extractor, path = open_extractor(name, folder / "net.pt", (3, 4, 4)), folder / f"{name}.npz"
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


def compared(source: Source, folder: Path, metrics: Any = ("fid",), **options: Any) -> dict[str, Comparison]:
    """Open what the command line would open."""
    weights = {"inception": folder / "net.pt", "inception-clean": folder / "net.pt"}
    options = {"reference": folder, "weights": weights, "config": folder, "resources": folder, **options}
    return open_comparisons(source, wanted=by_extractor(metrics, "inception"), **options)


def test_one_pass_gives_every_metric(source: Source, folder: Path, out: Path) -> None:
    comparisons = compared(source, folder, EVERYTHING)
    seen: list[int] = []

    def draw(start: int, count: int) -> Tensor:
        seen.append(count)
        return source.images(start, count)

    outcome = evaluate_source(replace(source, images=draw), comparisons, out, samples=60, blocks=2)
    assert json.loads(out.read_text()) == outcome
    assert sum(seen) == 120
    first, second = outcome["blocks"]
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
    comparisons = compared(source, folder, ["fid", "shift"])
    outcome = evaluate_source(source, comparisons, out, samples=60, blocks=1)
    (comparison,) = comparisons.values()
    features = comparison.extractor(source.images(0, 60))
    assert outcome["mean"]["shift"] == pytest.approx(shift(comparison.reference.rows, features), rel=1e-6)
    meant = (
        "distance of means, of 60 generated images against 80 of noise, on 12 pool features of the Inception"
    )
    assert outcome["definitions"]["shift"].startswith(meant)
    # A reference that is built now has its floor.
    images = some_images(80, 4, seed=1).numpy()
    built = build_reference(
        images, comparison.extractor, dataset="noise", dataset_sha256="a" * 64, path=out.with_name("r.npz")
    )
    assert built.floor("shift") == pytest.approx(0.1, abs=0.1)


def test_the_outcome_says_what_it_is(source: Source, folder: Path, out: Path) -> None:
    metrics = ["fid", "recall", "clean-fid", "pixel_recall", "nearest", "inception_score"]
    outcome = evaluate_source(source, compared(source, folder, metrics), out, samples=60, blocks=3)
    values = [block["fid"] for block in outcome["blocks"]]
    assert outcome["mean"]["fid"] == pytest.approx(np.mean(values))
    assert outcome["sampling_std"]["fid"] == pytest.approx(np.std(values, ddof=1))
    assert outcome["minimum"]["fid"] == min(values)
    assert (outcome["kind"], outcome["samples"], outcome["evaluations"]) == ("images", 60, None)
    assert outcome["definitions"].keys() == {metric.replace("-", "_") for metric in metrics}
    assert "of 60 generated images against 80 of noise, on 12 pool" in outcome["definitions"]["fid"]
    assert "against" not in outcome["definitions"]["inception_score"]
    assert "clean-fid's resize" in outcome["definitions"]["clean_fid"]
    assert "clean-fid's resize" not in outcome["definitions"]["recall"]
    assert outcome["floor"].keys() == outcome["definitions"].keys() - {"inception_score"}
    assert outcome["references"]["pixels"]["dataset"] == "noise"
    assert str(folder) not in out.read_text()


def test_a_summary_is_over_blocks() -> None:
    blocks = [{"start": 0, "fid": 1.0, "recall": 0.5}, {"start": 9, "fid": 4.0, "recall": 0.5}]
    found = over_blocks(blocks)
    assert found["blocks"] == blocks
    assert found["mean"] == {"fid": 2.5, "recall": 0.5}
    assert found["sampling_std"] == pytest.approx({"fid": 4.5**0.5, "recall": 0.0})
    assert found["minimum"] == {"fid": 1.0, "recall": 0.5}
    assert over_blocks(blocks[:1])["sampling_std"] == {"fid": None, "recall": None}
    assert over_blocks([*blocks, {"start": 18}])["mean"] == {}


def test_order_and_batches_change_nothing(
    source: Source, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = ("fid", "precision", "recall")
    order = torch.from_numpy(np.random.default_rng(0).permutation(180))
    images = source.images(0, 180)[order]
    shuffled = replace(source, sha256="b" * 64, images=lambda start, count: images[start : start + count])
    expected = evaluate_source(source, compared(source, folder, metrics), out, samples=180, blocks=1)["mean"]
    monkeypatch.setattr(evaluate, "BATCH", 7)
    found = evaluate_source(shuffled, compared(source, folder, metrics), out, samples=180, blocks=1)["mean"]
    assert found == pytest.approx(expected, rel=1e-6)


PROCESS = """
import sys
from pathlib import Path
from gdd.config.metrics import by_extractor
from gdd.metrics import evaluate, export
from gdd.metrics.comparison import open_comparisons
from gdd.metrics.sources import open_source
from gdd.training.world import join

evaluate.BATCH = export.BATCH = 50
fakes, references, out, *names = sys.argv[1:]
with join("cpu") as world:
    source, net = open_source(fakes), Path(references) / "net.pt"
    comparisons = open_comparisons(
        source, references, by_extractor(names, "inception"), weights={"inception": net},
    )
    found = evaluate.evaluate_source(source, comparisons, out, samples=180, blocks=1, world=world)
    export.export(source, Path(out).with_suffix(".npz"), start=0, count=180, world=world)
    assert found["provenance"]["processes"] == 2
    evaluate.evaluate_source(source, comparisons, "never.json", samples=12, blocks=1, world=world)
"""


def test_two_processes_give_the_numbers_of_one(
    source: Source, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their batches are those of one process; bad input is said once."""
    metrics = ("fid", "kid", "precision", "inception_score", "pixel_recall")
    expected = evaluate_source(source, compared(source, folder, metrics), out, samples=180, blocks=1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, source.name, folder, out.with_name("two.json"), *metrics],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [process.communicate(timeout=240)[1] for process in processes]
    assert "12 images are too few" in told[0]
    assert (processes[1].returncode, "too few" in told[1]) == (2, False)
    found = json.loads(out.with_name("two.json").read_text())
    assert found["mean"] == pytest.approx(expected["mean"], rel=1e-6)
    written = np.load(out.with_name("two.npz"))["images"]
    assert np.array_equal(written, source.images(0, 180).numpy())


def test_a_block_that_is_done_is_not_done_again(source: Source, folder: Path, out: Path) -> None:
    seen: list[int] = []

    def run(blocks: int, metrics: Any = ("fid", "kid"), fail: bool = False, **changes: Any) -> Any:
        def draw(start: int, count: int) -> Tensor:
            if fail and start == 24:
                raise KeyboardInterrupt
            seen.append(start)
            return source.images(start, count)

        changed = replace(source, images=draw, **changes)
        comparisons = compared(source, folder, metrics)
        return evaluate_source(changed, comparisons, out, samples=24, blocks=blocks)["blocks"]

    with pytest.raises(KeyboardInterrupt):
        run(2, fail=True)
    assert not out.exists()
    first = run(2)
    assert seen == [0, 24]
    assert run(3)[:2] == first
    assert seen == [0, 24, 48]
    assert run(1, metrics=("kid",)) == [{key: first[0][key] for key in ("start", "kid")}]
    assert seen == [0, 24, 48]
    # Other inputs: a metric that is not there, weights, facts.
    for number, changes in enumerate(
        ({"metrics": ("recall",)}, {"sha256": "c" * 64}, {"facts": {"seed": 1}})
    ):
        run(1, **changes)
        assert len(seen) == 4 + number
    out.with_name("out.block0.json").write_text("[]")  # of whatever else
    run(1)
    assert len(seen) == 7


def test_published_statistics_are_a_reference_for_the_distance_alone(
    source: Source, folder: Path, tmp_path: Path, out: Path
) -> None:
    own = compared(source, folder)["inception"].reference.gaussian
    expected = evaluate_source(source, compared(source, folder), out, samples=60, blocks=1)["mean"]["fid"]

    def written(name: str, **others: Any) -> Path:
        arrays = {"mu": own.mean.numpy(), "sigma": own.covariance.numpy(), **others}
        np.savez(tmp_path / f"{name}.npz", **arrays)
        return tmp_path / f"{name}.npz"

    path = written("noise-4x4")
    outcome = evaluate_source(source, compared(source, folder, reference=path), out, samples=60, blocks=1)
    assert outcome["mean"]["fid"] == pytest.approx(expected, rel=1e-9)
    assert "against published statistics of noise" in outcome["definitions"]["fid"]
    found = outcome["references"]["inception"]
    assert (found["count"], found["dataset"], outcome["floor"]) == (None, "noise", {})
    # ADM's batches are images and statistics in one file.
    batch = written("VIRTUAL_noise", arr_0=source.images(0, 80).numpy())
    assert open_source(batch).count == 80
    assert compared(source, folder, reference=batch)["inception"].reference.gaussian.dimension == 12

    with pytest.raises(UserError, match=r"published statistics of noise .* allow no precision"):
        comparisons = compared(source, folder, ["precision"], reference=path)
        evaluate_source(source, comparisons, out, samples=60, blocks=1)
    with pytest.raises(UserError, match="of the data set cifar10, the images are of noise"):
        compared(source, folder, reference=written("cifar10-4x4"), dataset="noise")
    with pytest.raises(UserError, match="at resolution 32, the images at 4"):
        compared(source, folder, reference=written("noise-32x32"))
    with pytest.raises(UserError, match="are of inception, not of inception-clean"):
        compared(source, folder, ["clean_fid"], reference=path)
    with pytest.raises(UserError, match=r"are of 3 features|has 3 features"):
        compared(source, folder, reference=written("noise-4x4", mu=np.zeros(3), sigma=np.eye(3)))


def test_how_many_images(source: Source) -> None:
    endless = replace(source, count=None)
    assert settle_counts(endless, None, None) == (50_000, 3)
    assert settle_counts(endless, 10, 2) == (10, 2)
    assert settle_counts(source, 180, None) == (180, 1)
    assert settle_counts(source, 20, None) == (20, 3)
    with pytest.raises(UserError, match=r"holds 180 images instead of the usual 50,000.* say --samples 180"):
        settle_counts(source, None, None)
    with pytest.raises(UserError, match="too few for 1 x 181"):
        settle_counts(source, 181, None)
    with pytest.raises(UserError, match="too few for 3 x 80"):
        settle_counts(source, 80, 3)


def test_bad_requests_are_refused_before_anything_is_generated(
    source: Source, folder: Path, out: Path, world: Any
) -> None:
    with pytest.raises(UserError, match="is one file, but inception and pixels are needed"):
        compared(source, folder, ["fid", "pixel_fid"], reference=folder / "inception.npz")
    with pytest.raises(UserError, match=r"clip\.npz does not exist; build it with `gdd reference`"):
        compared(source, folder, ["clip_fid"])
    with pytest.raises(UserError, match="of the data set noise, the images are of ffhq"):
        compared(source, folder, dataset="ffhq")
    with pytest.raises(UserError, match="at resolution 4, the images at 8"):
        compared(replace(source, shape=(3, 8, 8)), folder)
    with pytest.raises(UserError, match=r"made by the extractor inception-clean .* not by inception"):
        compared(source, folder, reference=folder / "inception-clean.npz")

    def never(start: int, count: int) -> Tensor:
        raise AssertionError("generated")

    unseen = replace(source, images=never)
    with pytest.raises(UserError, match="12 images are too few for a Frechet distance on 12 features"):
        evaluate_source(unseen, compared(source, folder), out, samples=12, blocks=1)
    (pixels,) = compared(source, folder, ["pixel_fid"]).values()
    asked = {"pixels": replace(pixels, metrics=("inception_score",))}
    with pytest.raises(UserError, match="The extractor pixels gives no class probabilities; leave out"):
        evaluate_source(unseen, asked, out, samples=60, blocks=1)

    def diverged(start: int, count: int) -> Tensor:
        raise DivergedError("3 of 60 images hold NaN")

    with pytest.raises(DivergedError, match="3 of 60"):
        evaluate_source(replace(source, images=diverged), compared(source, folder), out, samples=60, blocks=1)
