"""What generated images are compared with: the features of a data set, computed once and kept in a file."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gdd.config.record import Record, parse
from gdd.errors import UserError
from gdd.files import atomic_path
from gdd.metrics.extractors import FeatureExtractor
from gdd.metrics.frechet import Gaussian, Moments, frechet_distance
from gdd.metrics.neighbours import nearest_distance, neighbour_metrics

FLOOR_SEED = 0


class Floor(Record):
    """The metrics of one half of the data set (as generated) against the other (as real).

    No generator can be expected to do better on so few images. `fid` is null where a half has no more images
    than there are features.
    """

    real_count: int
    other_count: int
    fid: float | None
    precision: float
    recall: float
    density: float
    coverage: float


class ReferenceDescription(Record):
    """What the numbers of a reference file were computed from."""

    dataset: str
    dataset_sha256: str
    resolution: int
    extractor: str
    extractor_sha256: str
    definition: str
    count: int
    nearest_real: float
    """Median distance from a kept image to the nearest other kept one, divided by sqrt(features)."""
    floor: Floor


@dataclass(frozen=True)
class Reference:
    """Features of a data set: `gaussian` over all images, `features` [M, D] of all or evenly spaced ones."""

    description: ReferenceDescription
    gaussian: Gaussian
    features: Tensor


def build_reference(
    images: npt.NDArray[np.uint8],
    extractor: FeatureExtractor,
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
    if count < 8:
        raise UserError(f"The data set {dataset} has {count} images; a reference needs 8 or more.")
    order = np.random.default_rng(FLOOR_SEED).permutation(count)
    in_second_half = np.zeros(count, dtype=bool)
    in_second_half[order[1::2]] = True
    is_kept = np.zeros(count, dtype=bool)
    is_kept[np.arange(min(kept, count)) * count // min(kept, count)] = True

    halves = (Moments(extractor.dimension), Moments(extractor.dimension))
    collected: list[Tensor] = []
    for start in range(0, count, batch):
        chunk = slice(start, start + batch)
        features = extractor(torch.from_numpy(np.array(images[chunk])))
        device, features = features.device, features.cpu()
        second = torch.from_numpy(in_second_half[chunk])
        halves[0].update(features[~second])
        halves[1].update(features[second])
        collected.append(features[torch.from_numpy(is_kept[chunk])])
    features = torch.cat(collected)

    second = torch.from_numpy(in_second_half[is_kept])
    # Neighbours are searched where the network runs; on a CPU, 50,000 of them take long.
    floor = _floor(halves, features[~second].to(device), features[second].to(device))
    total = Moments(extractor.dimension)
    for half in halves:
        total.merge(half)
    spacing = nearest_distance(features.to(device), features.to(device), exclude_self=True).quantile(0.5)
    description = ReferenceDescription(
        dataset=dataset,
        dataset_sha256=dataset_sha256,
        resolution=images.shape[1],
        extractor=extractor.name,
        extractor_sha256=extractor.sha256,
        definition=extractor.definition,
        count=count,
        nearest_real=float(spacing) / extractor.dimension**0.5,
        floor=floor,
    )
    reference = Reference(description, total.gaussian(), features)
    _save(reference, path)
    return reference


def load_reference(path: str | Path) -> Reference:
    """Read what `build_reference` wrote.

    Raises:
        UserError: the file is missing, broken, or something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            description = parse(ReferenceDescription, json.loads(str(file["description"])), path)
            mean, covariance, features = (
                torch.from_numpy(file[key]) for key in ("mean", "covariance", "features")
            )
    except FileNotFoundError:
        raise UserError(f"The reference features {path} do not exist; build them first.") from None
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is no reference file of gdd ({error}); delete it and build it again."
        ) from None
    return Reference(description, Gaussian(mean, covariance, description.count), features)


def check_extractor(reference: Reference, extractor: FeatureExtractor) -> None:
    """Refuse features of another extractor than the reference's.

    Raises:
        UserError: name, weights or definition differ.
    """
    of = reference.description
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


def check_compatible(
    reference: Reference, extractor: FeatureExtractor, dataset_name: str, resolution: int
) -> None:
    """Refuse a reference that does not belong to the images to be judged.

    Raises:
        UserError: the data set, the resolution or the extractor differs.
    """
    of = reference.description
    if of.dataset != dataset_name:
        raise UserError(
            f"The reference is of the data set {of.dataset}, the images are of {dataset_name}; "
            "use that data set's reference."
        )
    if of.resolution != resolution:
        raise UserError(
            f"The reference of {of.dataset} is at resolution {of.resolution}, the images at {resolution}; "
            "use a reference of the same resolution."
        )
    check_extractor(reference, extractor)


def _floor(halves: tuple[Moments, Moments], real: Tensor, other: Tensor) -> Floor:
    enough = min(half.count for half in halves) > real.shape[1]
    neighbours = neighbour_metrics(real, other)
    return Floor(
        real_count=halves[0].count,
        other_count=halves[1].count,
        fid=frechet_distance(halves[0].gaussian(), halves[1].gaussian()) if enough else None,
        **neighbours._asdict(),
    )


def _save(reference: Reference, path: str | Path) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            mean=reference.gaussian.mean.cpu().numpy(),
            covariance=reference.gaussian.covariance.cpu().numpy(),
            features=reference.features.cpu().numpy(),
            count=np.int64(reference.gaussian.count),
            description=np.array(reference.description.canonical()),
        )
