"""One pass over generated images that feeds every metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gdd.errors import UserError
from gdd.metrics.extractors import FeatureExtractor, ProbabilityExtractor, require_bytes
from gdd.metrics.frechet import Moments, frechet_distance, require_enough_samples
from gdd.metrics.inception_score import inception_score
from gdd.metrics.kid import kernel_distance
from gdd.metrics.neighbours import nearest_distance, neighbour_metrics
from gdd.metrics.reference import Reference, check_extractor
from gdd.training.world import ALONE, World

NEIGHBOUR_METRICS = ("precision", "recall", "density", "coverage")
FEATURE_METRICS = ("kid", *NEIGHBOUR_METRICS)  # for which every image's features are kept
METRICS = ("fid", *FEATURE_METRICS, "inception_score", "nearest")
NEAREST = "nearest_training_image"


@dataclass
class _Collected:
    """What one extractor has seen so far."""

    moments: Moments
    features: list[Tensor] = field(default_factory=list)
    probabilities: list[Tensor] = field(default_factory=list)


def evaluate_block(
    generate: Callable[[int, int], Tensor],
    *,
    start: int,
    count: int,
    batch: int,
    references: Mapping[str, tuple[FeatureExtractor, Reference]],
    metrics: set[str] | Mapping[str, set[str]],
    shards: World = ALONE,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Generate the images `start` to `start + count - 1` once and compare them with each reference.

    `generate(first, n)` returns the uint8 images [n, H, W, C] of the latent indices first to first + n - 1.
    `metrics` is a subset of `METRICS`, or one for each key of `references`; features are kept only for those
    of `FEATURE_METRICS`. With several `shards`, each process generates its batches and the main one returns
    the result, the others an empty one. `progress` is told the size of each batch.

    Returns plain JSON values: under each key of `references` the metrics with `start`, `count`,
    `reference_count`, `extractor`, `extractor_sha256` and `definition`; and, if "nearest" is asked for and
    there is a pixel extractor, `nearest_training_image`: the median over generated images of the distance
    to the nearest training image, as the root mean square over pixels in [-1, 1], and its ratio to the
    same median between training images. A ratio far below 1 means copies.
    The Inception Score appears for extractors that give class probabilities.

    Raises:
        UserError: an unknown metric, too few images for one, an extractor other than the reference's,
            or features that are not finite.
    """
    wanted = dict(metrics) if isinstance(metrics, Mapping) else dict.fromkeys(references, metrics)
    for key in references:
        _check_request(key, references[key], wanted[key], count)
    collected = {key: _Collected(Moments(extractor.dimension)) for key, (extractor, _) in references.items()}
    with shards.same_error():
        for first, size in shards.batches(start, count, batch):
            images = generate(first, size)
            require_bytes(images)
            if len(images) != size:
                raise ValueError(f"generate({first}, {size}) returned {len(images)} images")
            for key, (extractor, _) in references.items():
                _collect(collected[key], extractor, images, wanted[key])
            if progress:
                progress(size)
    if shards.size > 1:
        collected = {key: _gathered(seen, shards) for key, seen in collected.items()}
        if not shards.main:
            return {}

    block: dict[str, Any] = {}
    for key, (extractor, reference) in references.items():
        block[key] = {
            **_values(collected[key], reference, wanted[key]),
            "start": start,
            "count": count,
            "reference_count": reference.gaussian.count,
            "extractor": extractor.name,
            "extractor_sha256": extractor.sha256,
            "definition": extractor.definition,
        }
        if "nearest" in wanted[key] and extractor.name == "pixels":
            block[NEAREST] = _nearest(torch.cat(collected[key].features), reference)
    return block


def _check_request(key: str, pair: tuple[FeatureExtractor, Reference], metrics: set[str], count: int) -> None:
    # Before anything is generated: generating is what takes the time.
    extractor, reference = pair
    unknown = sorted(metrics - set(METRICS))
    if unknown:
        raise UserError(f"There is no metric '{unknown[0]}'; choose from {', '.join(METRICS)}.")
    if key == NEAREST:
        raise UserError(f"An extractor cannot be called '{NEAREST}', which is a result's name.")
    check_extractor(reference, extractor)
    missing = sorted(metrics.intersection((*FEATURE_METRICS, "nearest")))
    if missing and len(reference.features) == 0:
        raise UserError(
            f"The published statistics of {reference.description.dataset} are a mean and a covariance, which "
            f"allow no {missing[0]}; build a reference from the images with `gdd reference`."
        )
    if "fid" in metrics:
        # Published statistics do not say of how many images they are.
        fewest = min(count, reference.gaussian.count or count)
        require_enough_samples(fewest, extractor.dimension)


def _collect(into: _Collected, extractor: FeatureExtractor, images: Tensor, metrics: set[str]) -> None:
    if "inception_score" in metrics and isinstance(extractor, ProbabilityExtractor):
        features, probabilities = extractor.features_and_probabilities(images)
        into.probabilities.append(probabilities.cpu())
    else:
        features = extractor(images)
    if "fid" in metrics:
        into.moments.update(features)
    if metrics.intersection(FEATURE_METRICS) or ("nearest" in metrics and extractor.name == "pixels"):
        into.features.append(features)


def _gathered(seen: _Collected, shards: World) -> _Collected:
    """Return what all processes have seen, in the order of images, in the main one; else nothing."""
    dimension = seen.moments.packed().shape[1]
    total = _Collected(Moments(dimension))
    for packed in shards.gather(seen.moments.packed()):
        total.moments.merge(Moments.unpacked(packed))
    # Whether there are any is the same in all processes that have seen an image; the main one has.
    if shards.broadcast(bool(seen.features)):
        parts = shards.gather(_rows(seen.features, dimension))
        # Back to where neighbours are searched in an evaluation of one process.
        total.features = [part.to(seen.features[0].device) for part in parts]
    width = shards.broadcast(seen.probabilities[0].shape[1] if seen.probabilities else 0)
    if width:
        total.probabilities = shards.gather(_rows(seen.probabilities, width))
    return total


def _rows(parts: list[Tensor], width: int) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, width)


def _values(seen: _Collected, reference: Reference, metrics: set[str]) -> dict[str, float]:
    values: dict[str, float] = {}
    if "fid" in metrics:
        values["fid"] = frechet_distance(seen.moments.gaussian(), reference.gaussian)
    if "kid" in metrics:
        fakes = torch.cat(seen.features)
        values["kid"] = kernel_distance(reference.features.to(fakes.device), fakes)
    if metrics.intersection(NEIGHBOUR_METRICS):
        fakes = torch.cat(seen.features)
        real = reference.features.to(fakes.device)
        found = neighbour_metrics(real, fakes, real_squares=reference.squares)._asdict()
        values |= {name: found[name] for name in NEIGHBOUR_METRICS if name in metrics}
    if seen.probabilities:
        mean, spread = inception_score(torch.cat(seen.probabilities))
        values |= {"inception_score": mean, "inception_score_std": spread}
    return values


def _nearest(pixels: Tensor, reference: Reference) -> dict[str, Any]:
    median = (
        float(nearest_distance(pixels, reference.features.to(pixels.device)).quantile(0.5))
        / pixels.shape[1] ** 0.5
    )
    between_real = reference.description.nearest_real
    return {
        "median_rms": median,
        "real_median_rms": between_real,
        # Data sets of nothing but copies have no scale to compare with.
        "ratio_to_real": median / between_real if between_real > 0 else None,
        "count": len(pixels),
        "searched": len(reference.features),
        "definition": "median RMS distance over pixels in [-1, 1] to the nearest training image",
    }
