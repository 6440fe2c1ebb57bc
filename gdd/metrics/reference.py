"""What generated images are compared with: the features of a data set, computed once and kept in a file."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gdd.config.metrics import METRICS
from gdd.config.record import Record, parse
from gdd.errors import UserError
from gdd.files import atomic_path
from gdd.metrics.extractors import Extractor
from gdd.metrics.frechet import Gaussian, Moments

FLOOR_SEED = 0
FEWEST = 8  # images of which two halves can be compared


@dataclass(frozen=True)
class Features:
    """Features of a set of images: mean and covariance over all, rows [N, D] of all or some."""

    gaussian: Gaussian
    rows: Tensor


def compute(
    names: Iterable[str], real: Features, fake: Features, probabilities: Callable[[], Tensor] | None = None
) -> dict[str, float]:
    """Return metrics by name, and as `<name>_std` the spread of those that have one.

    A function that gives several metrics is called once. A metric without a value is left out.

    Args:
        names: keys of `METRICS`, all in the same features.
        real: the real images.
        fake: the generated ones, whose rows lie on the same device.
        probabilities: class probabilities [M, K] of the generated images, for metrics that need these.

    Raises:
        UserError: too few images for a metric, or features that are not finite.
    """
    results: dict[Any, Any] = {}
    values: dict[str, float | None] = {}
    for name in names:
        metric = METRICS[name]
        if metric.function not in results:
            if metric.needs == "moments":
                found = metric.resolve()(real.gaussian, fake.gaussian)
            elif metric.needs == "features":
                found = metric.resolve()(real.rows, fake.rows)
            else:
                assert probabilities
                found = metric.resolve()(probabilities())
            results[metric.function] = found
        result = results[metric.function]
        values[name] = getattr(result, metric.part) if metric.part else result
        values[f"{name}_std"] = getattr(result, f"{metric.part}_std", None)
    return {name: float(value) for name, value in values.items() if value is not None}


class ReferenceDescription(Record):
    """What the numbers of a reference file were computed from."""

    dataset: str
    dataset_sha256: str
    resolution: int
    extractor: str
    extractor_sha256: str
    definition: str
    count: int
    # One half of the data set (as generated) against the other (as real): no generator can be expected to do
    # better on so few images. Of metrics that differ in the features alone, the first one's name stands here.
    floor: dict[str, float]


@dataclass(frozen=True)
class Reference(Features):
    """Features of a data set: `gaussian` over all images, `rows` of all or of evenly spaced ones."""

    description: ReferenceDescription

    def floor(self, name: str) -> float | None:
        """Return what a metric is for real images, if that is known."""
        metric = METRICS[name]
        first = next(other for other in METRICS if METRICS[other].number == metric.number)
        return self.description.floor.get(first) if metric.floor is None else metric.floor


def build_reference(
    images: npt.NDArray[np.uint8],
    extractor: Extractor,
    *,
    dataset: str,
    dataset_sha256: str,
    path: str | Path,
    kept: int = 50_000,
    batch: int = 256,
) -> Reference:
    """Compute the reference of uint8 images [N, H, W, C] and write it to `path` (npz).

    Mean and covariance are over all images. Features are kept of all when N <= `kept`, else of `kept` evenly
    spaced ones. The floor compares the two halves of the data set, dealt out by a permutation of fixed seed.

    Raises:
        UserError: too few images for the neighbour metrics, or features that are not finite.
    """
    count = len(images)
    if count < FEWEST:
        raise UserError(f"The data set {dataset} has {count} images; a reference needs {FEWEST} or more.")
    in_second = torch.zeros(count, dtype=torch.bool)
    in_second[np.random.default_rng(FLOOR_SEED).permutation(count)[1::2]] = True
    is_kept = torch.zeros(count, dtype=torch.bool)
    is_kept[torch.arange(min(kept, count)) * count // min(kept, count)] = True

    halves = (Moments(extractor.dimension), Moments(extractor.dimension))
    collected = []
    for start in range(0, count, batch):
        chunk = slice(start, start + batch)
        features = extractor(torch.from_numpy(np.array(images[chunk])))
        for half, mine in zip(halves, (~in_second[chunk], in_second[chunk]), strict=True):
            half.update(features[mine])
        collected.append(features[is_kept[chunk]])
    rows = torch.cat(collected)

    second = in_second[is_kept]
    real, other = Features(halves[0].gaussian(), rows[~second]), Features(halves[1].gaussian(), rows[second])
    floor = compute(_measurable(extractor.dimension, halves[1].count), real, other)
    halves[0].merge(halves[1])
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
    reference = Reference(halves[0].gaussian(), rows.cpu(), description)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            mean=reference.gaussian.mean.cpu().numpy(),
            covariance=reference.gaussian.covariance.cpu().numpy(),
            features=reference.rows.numpy(),
            description=np.array(description.canonical()),
        )
    return reference


def load_reference(path: str | Path) -> Reference:
    """Read what `build_reference` wrote.

    Raises:
        UserError: the file is missing, broken, or something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            description = parse(ReferenceDescription, json.loads(str(file["description"])), path)
            mean, covariance, rows = (
                torch.from_numpy(file[key]) for key in ("mean", "covariance", "features")
            )
    except FileNotFoundError:
        raise UserError(f"The reference features {path} do not exist; build them first.") from None
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is no reference file of gdd ({error}); delete it and build it again."
        ) from None
    return Reference(Gaussian(mean, covariance, description.count), rows, description)


def check_compatible(reference: Reference, extractor: Extractor, dataset: str, resolution: int) -> None:
    """Refuse a reference that does not belong to the images to be evaluated.

    Raises:
        UserError: data set, resolution or extractor (name, weights, number of features) differ.
    """
    of = reference.description
    if of.dataset != dataset:
        raise UserError(
            f"The reference is of the data set {of.dataset}, the images are of {dataset}; "
            "use that data set's reference."
        )
    if of.resolution != resolution:
        raise UserError(
            f"The reference of {of.dataset} is at resolution {of.resolution}, the images at {resolution}; "
            "use a reference of the same resolution."
        )
    if (of.extractor, of.extractor_sha256) != (extractor.name, extractor.sha256):
        raise UserError(
            f"The reference of {of.dataset} was made by the extractor {of.extractor} "
            f"({of.extractor_sha256[:12]}), not by {extractor.name} ({extractor.sha256[:12]}); "
            "build the reference again."
        )
    if reference.gaussian.dimension != extractor.dimension:
        raise UserError(
            f"The reference of {of.dataset} has {reference.gaussian.dimension} features, the extractor "
            f"{extractor.name} gives {extractor.dimension}; build the reference again."
        )


def _measurable(dimension: int, fewest: int) -> list[str]:
    """Return one metric for every number that halves of `fewest` images or more can be compared by."""
    names: dict[Any, str] = {}
    for name, metric in METRICS.items():
        enough = metric.needs == "features" or (metric.needs == "moments" and fewest > dimension)
        if metric.floor is None and enough:
            names.setdefault(metric.number, name)
    return list(names.values())
