"""Making a reference of real images, and comparing one with what others published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gdd.config.metrics import METRICS
from gdd.errors import UserError
from gdd.files import atomic_path, write_json
from gdd.metrics.evaluate import compute
from gdd.metrics.extractors import Extractor
from gdd.metrics.frechet import Moments, frechet_distance
from gdd.metrics.reference import Features, ReferenceDescription, load_reference

BATCH = 256
KEPT = 50_000  # images whose features are kept
FLOOR_SEED = 0
FEWEST = 8  # images of which two halves can be compared


def build_reference(
    images: npt.NDArray[np.uint8],
    extractor: Extractor,
    *,
    dataset: str,
    dataset_sha256: str,
    path: str | Path,
) -> ReferenceDescription:
    """Compute the reference of uint8 images [N, H, W, C] and write it to `path` (npz).

    Mean and covariance are over all images. Features are kept of all, or of `KEPT` evenly spaced ones. The
    floor compares the two halves of the data set, dealt out by a permutation of fixed seed.

    Raises:
        UserError: too few images for the neighbour metrics, or features that are not finite.
    """
    count = len(images)
    if count < FEWEST:
        raise UserError(f"The data set {dataset} has {count} images; a reference needs {FEWEST} or more.")
    in_second = torch.zeros(count, dtype=torch.bool)
    in_second[np.random.default_rng(FLOOR_SEED).permutation(count)[1::2]] = True
    kept = min(KEPT, count)
    is_kept = torch.zeros(count, dtype=torch.bool)
    is_kept[torch.arange(kept) * count // kept] = True

    first, second = (Moments(extractor.dimension) for _ in range(2))
    collected = []
    for start in range(0, count, BATCH):
        batch = slice(start, start + BATCH)
        features = extractor(torch.from_numpy(np.array(images[batch])))
        first.update(features[~in_second[batch]])
        second.update(features[in_second[batch]])
        collected.append(features[is_kept[batch]])
    rows = torch.cat(collected)

    halves = (
        Features(first.gaussian(), rows[~in_second[is_kept]]),
        Features(second.gaussian(), rows[in_second[is_kept]]),
    )
    floor = compute(_measurable(extractor.dimension, second.count), *halves, extractor)
    first.merge(second)
    gaussian = first.gaussian()
    description = ReferenceDescription(
        dataset=dataset,
        dataset_sha256=dataset_sha256,
        resolution=images.shape[1],
        extractor=extractor.name,
        extractor_sha256=extractor.sha256,
        definition=extractor.definition,
        count=count,
        floor=floor,
    )
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            mean=gaussian.mean.cpu().numpy(),
            covariance=gaussian.covariance.cpu().numpy(),
            features=rows.cpu().numpy(),
            description=np.array(description.canonical()),
        )
    return description


def _measurable(dimension: int, fewest: int) -> list[str]:
    """Return one metric for every number that halves of `fewest` images or more can be compared by."""
    names: dict[Any, str] = {}
    for name, metric in METRICS.items():
        enough = metric.needs == "features" or (metric.needs == "moments" and fewest > dimension)
        if metric.floor is None and enough:
            names.setdefault(metric.number, name)
    return list(names.values())


def report_distance(
    out: str | Path, reference_file: str | Path, published_file: str | Path
) -> dict[str, Any]:
    """Compare a reference with published statistics and write how far they are apart to `out` (JSON).

    If the images, the network and its resize agree, the distance is 0 up to rounding, and FIDs against either
    may be compared. `relative_distance` is over the trace of the published covariance (null if that is 0),
    `mean_difference` the largest absolute difference of a feature's means.

    Raises:
        UserError: one of the files is unusable, or they are of different features.
    """
    reference, published = load_reference(reference_file), load_reference(published_file)
    own, theirs, of = reference.gaussian, published.gaussian, reference.description
    if own.dimension != theirs.dimension:
        raise UserError(
            f"The published statistics {published_file} are of {theirs.dimension} features, the reference "
            f"of {of.dataset} of {own.dimension} ({of.extractor}); compare with one of the same network."
        )
    distance = frechet_distance(own, theirs)
    trace = float(theirs.covariance.trace())
    result = {
        "frechet_distance": distance,
        "relative_distance": distance / trace if trace > 0 else None,
        "mean_difference": float((own.mean - theirs.mean).abs().max()),
        "own_trace": float(own.covariance.trace()),
        "published_trace": trace,
        "features": own.dimension,
        **of.model_dump(include={"dataset", "dataset_sha256", "resolution", "count", "definition"}),
        **of.model_dump(include={"extractor", "extractor_sha256"}),
        "published_file": Path(published_file).name,
        "published_sha256": published.sha256,
        "reference_sha256": reference.sha256,
    }
    write_json(out, result)
    return result
