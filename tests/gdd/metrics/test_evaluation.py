from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gdd.errors import UserError
from gdd.metrics.evaluation import METRICS, evaluate_block
from gdd.metrics.extractors import PixelExtractor
from gdd.metrics.inception_score import inception_score
from gdd.metrics.neighbours import nearest_distance, neighbour_metrics
from gdd.metrics.reference import Reference, build_reference

RESOLUTION = 4
EVERYTHING = set(METRICS)


class Classifying:
    """An extractor that gives probabilities in the same pass and counts the images it saw."""

    name = "classifying"
    dimension = 4
    sha256 = "d" * 64
    definition = "four corners"

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return images[:, [0, 0, 3, 3], [0, 3, 0, 3], 0].float() / 64

    def features_and_probabilities(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self(images)
        return features, torch.softmax(features, dim=1)


def images_of(first: int, count: int) -> Tensor:
    """Images that depend on their latent index alone."""
    rows = [
        np.random.default_rng(index).normal(140, 40, (RESOLUTION, RESOLUTION, 1))
        for index in range(first, first + count)
    ]
    return torch.from_numpy(np.clip(np.stack(rows), 0, 255).astype(np.uint8))


@pytest.fixture
def references(tmp_path: Path) -> dict[str, tuple[Any, Reference]]:
    real = images_of(10_000, 60).numpy()
    return {
        extractor.name: (
            extractor,
            build_reference(
                real, extractor, dataset="noise", dataset_sha256="e" * 64, path=tmp_path / "r.npz"
            ),
        )
        for extractor in (PixelExtractor(RESOLUTION, 1), Classifying())
    }


def evaluate(references: dict[str, tuple[Any, Reference]], **options: Any) -> dict[str, Any]:
    settings = {"start": 0, "count": 50, "batch": 16, "metrics": EVERYTHING} | options
    return evaluate_block(images_of, references=references, **settings)


def test_one_pass_gives_every_metric(references: dict[str, tuple[Any, Reference]]) -> None:
    classifying, reference = references["classifying"]
    classifying.seen = 0
    block = evaluate(references)
    assert classifying.seen == 50
    assert json.loads(json.dumps(block, allow_nan=False)) == block
    assert block.keys() == {"pixels", "classifying", "nearest_training_image"}
    features, probabilities = classifying.features_and_probabilities(images_of(0, 50))
    result = block["classifying"]
    expected = neighbour_metrics(reference.features, features)._asdict()
    assert {name: result[name] for name in expected} == expected
    assert (result["inception_score"], result["inception_score_std"]) == inception_score(probabilities)
    assert result["fid"] > 0
    assert (result["start"], result["count"], result["reference_count"]) == (0, 50, 60)
    assert (result["definition"], result["extractor_sha256"]) == ("four corners", "d" * 64)
    assert "inception_score" not in block["pixels"]

    pixels, reference = references["pixels"]
    nearest = block["nearest_training_image"]
    median = nearest_distance(pixels(images_of(0, 50)), reference.features).quantile(0.5)
    assert nearest["median_rms"] == pytest.approx(float(median) / RESOLUTION)
    assert nearest["ratio_to_real"] == pytest.approx(
        nearest["median_rms"] / reference.description.nearest_real
    )
    # Both are the same noise, so that a fake is as far from the reals as they are from one another.
    assert nearest["ratio_to_real"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("batch", [1, 7, 50, 1000])
def test_the_batch_size_does_not_matter(references: dict[str, tuple[Any, Reference]], batch: int) -> None:
    expected, found = evaluate(references, start=3), evaluate(references, start=3, batch=batch)
    assert found.keys() == expected.keys()
    for key in expected:
        for name, value in expected[key].items():
            assert found[key][name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)


def test_copies_of_training_images_show(references: dict[str, tuple[Any, Reference]]) -> None:
    block = evaluate(references, start=10_005)
    assert block["nearest_training_image"]["median_rms"] == 0
    assert block["nearest_training_image"]["ratio_to_real"] == 0
    assert block["pixels"]["precision"] == 1


def test_only_what_is_asked_for(references: dict[str, tuple[Any, Reference]]) -> None:
    block = evaluate(references, metrics={"fid"})
    assert block.keys() == {"pixels", "classifying"}
    described = {"start", "count", "reference_count", "extractor", "extractor_sha256", "definition"}
    assert block["pixels"].keys() == {"fid"} | described
    # Without a Frechet distance fewer images than features will do.
    few = evaluate(references, metrics={"recall", "nearest"}, count=5)
    assert few["pixels"].keys() == {"recall"} | described
    assert few["nearest_training_image"]["count"] == 5


def test_bad_requests_are_refused_before_anything_is_generated(
    references: dict[str, tuple[Any, Reference]],
) -> None:
    def never(first: int, count: int) -> Tensor:
        raise AssertionError("generated")

    def ask(**options: Any) -> None:
        settings = {
            "start": 0,
            "count": 50,
            "batch": 8,
            "metrics": EVERYTHING,
            "references": references,
        } | options
        evaluate_block(never, **settings)

    with pytest.raises(UserError, match="no metric 'lpips'"):
        ask(metrics={"fid", "lpips"})
    with pytest.raises(UserError, match="16 images are too few"):
        ask(count=16)
    with pytest.raises(UserError, match="build the reference again"):
        ask(references={"pixels": (Classifying(), references["pixels"][1])})


def test_a_generator_that_breaks_its_word_is_an_error(references: dict[str, tuple[Any, Reference]]) -> None:
    with pytest.raises(ValueError, match="returned 15 images"):
        evaluate_block(
            lambda first, count: images_of(first, count - 1),
            start=0, count=32, batch=16, references=references, metrics={"fid"},
        )  # fmt: skip
    with pytest.raises(ValueError, match="uint8"):
        evaluate_block(
            lambda first, count: images_of(first, count).float(),
            start=0, count=32, batch=16, references=references, metrics={"fid"},
        )  # fmt: skip
