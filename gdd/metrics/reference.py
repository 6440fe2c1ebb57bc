"""What generated images are compared with: the features of real ones, and the metrics wanted of the two."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdd.config.metrics import METRICS, too_few_images
from gdd.config.record import Record, parse
from gdd.errors import UserError, in_a_line
from gdd.files import BROKEN_ARRAYS, require_bounded, sha256
from gdd.metrics.extractors import Extractor, open_extractor
from gdd.metrics.frechet import Gaussian

PUBLISHED_EXTRACTOR = "inception"  # of EDM's and ADM's statistics


@dataclass(frozen=True)
class Features:
    """Features of a set of images: mean and covariance over all, rows [N, D] of all or some."""

    gaussian: Gaussian
    rows: Tensor


class ReferenceDescription(Record):
    """What a reference file was computed from; published files do not tell all of it."""

    dataset: str
    dataset_sha256: str
    resolution: int | None
    extractor: str
    extractor_sha256: str | None
    definition: str
    count: int | None  # of images
    # One half of the data set (as generated) against the other (as real): no generator can be expected to do
    # better on so few images. Of metrics that differ in the features alone, the first one's name stands here.
    floor: dict[str, float]


@dataclass(frozen=True)
class Reference(Features):
    """Features of a data set; there are rows of all images, of evenly spaced ones, or none (published)."""

    description: ReferenceDescription
    sha256: str  # of the file

    def floor(self, name: str) -> float | None:
        """Return what a metric is for real images, if that is known."""
        metric = METRICS[name]
        first = next(other for other in METRICS if METRICS[other].number == metric.number)
        return self.description.floor.get(first) if metric.floor is None else metric.floor

    def check(
        self, extractor: Extractor, resolution: int, dataset: str | None, dataset_sha256: str | None
    ) -> None:
        """Refuse to be compared with other images: another data set, resolution or extractor."""
        of = self.description
        if dataset not in (None, of.dataset):
            raise UserError(
                f"The reference is of the data set {of.dataset}, the images are of {dataset}; "
                "use that data set's reference."
            )
        if of.resolution not in (None, resolution):
            raise UserError(
                f"The reference of {of.dataset} is at resolution {of.resolution}, the images are at "
                f"{resolution}; use a reference of the same resolution."
            )
        made_by, sha = (of.extractor, self.gaussian.dimension), of.extractor_sha256 or extractor.sha256
        if made_by != (extractor.name, extractor.dimension) or sha != extractor.sha256:
            raise UserError(
                f"The reference of {of.dataset} has {made_by[1]} features of the extractor {of.extractor} "
                f"({sha[:12]}), not {extractor.dimension} of {extractor.name} ({extractor.sha256[:12]}); "
                "build the reference again with `gdd reference`."
            )
        if dataset_sha256 not in (None, of.dataset_sha256):
            raise UserError(
                f"The reference of {of.dataset} ({of.extractor}) was made from other images than the data "
                "set holds now; build it again with `gdd reference`."
            )


def load_reference(path: str | Path) -> Reference:
    """Read what `build_reference` wrote, or mean and covariance that others published, as `mu` and `sigma`.

    EDM (arXiv:2206.00364) publishes those of Inception features of its training sets, in files called
    `<data set>-64x64.npz`; of a file with another name, neither data set nor resolution is known.

    Raises:
        UserError: the file is missing, broken, or something else.
    """
    path = Path(path)
    try:
        require_bounded(path)
        with np.load(path, allow_pickle=False) as file:
            if "description" in file:
                description = parse(ReferenceDescription, json.loads(str(file["description"])), path)
                mean, covariance, rows = (file[key] for key in ("mean", "covariance", "features"))
                if {array.dtype.kind for array in (mean, covariance, rows)} != {"f"}:
                    raise ValueError("arrays of another type")
            else:
                description = _published(path)
                mean, covariance = (file[key].astype(np.float64) for key in ("mu", "sigma"))
                rows = np.zeros((0, len(mean)))
    except FileNotFoundError:
        raise UserError(f"The reference {path} does not exist; build it with `gdd reference`.") from None
    except BROKEN_ARRAYS as error:
        raise UserError(
            f"{path} holds neither a reference of gdd nor published mu and sigma ({in_a_line(error)}); "
            "make it again."
        ) from None
    wrong = mean.ndim != 1 or len(mean) == 0 or covariance.shape != (len(mean), len(mean))
    if wrong or rows.shape[1:] != mean.shape:
        shapes = f"{list(mean.shape)} and {list(covariance.shape)}"
        raise UserError(f"{path} holds no mean [D] and covariance [D, D] but {shapes}; make it again.")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"The mean or covariance in {path} holds NaN or infinity; make it again.")
    gaussian = Gaussian(torch.from_numpy(mean), torch.from_numpy(covariance))
    return Reference(gaussian, torch.from_numpy(rows), description, sha256(path))


def _published(path: Path) -> ReferenceDescription:
    name = re.fullmatch(r"(.+)-(\d+)x\2", path.stem)
    return ReferenceDescription(
        dataset=name[1] if name else path.stem,
        dataset_sha256=sha256(path),
        resolution=int(name[2]) if name else None,
        extractor=PUBLISHED_EXTRACTOR,
        extractor_sha256=None,
        definition="",
        count=None,
        floor={},
    )


@dataclass(frozen=True)
class Comparison:
    """An extractor, the reference that its features are compared with, and the metrics wanted of the two."""

    extractor: Extractor
    reference: Reference
    metrics: tuple[str, ...]

    def inputs(self) -> dict[str, list[str]]:
        """Return what decides each metric besides the images, as plain JSON values."""
        made_from = [self.extractor.definition, self.extractor.sha256, self.reference.sha256]
        return {name: [METRICS[name].definition, *made_from] for name in self.metrics}

    def check(self, samples: int) -> None:
        """Refuse metrics that cannot be had, before anything is generated, which is what takes the time.

        Raises:
            UserError: published statistics or the extractor do not allow one, or there are too few images.
        """
        of = self.reference.description
        count = min(samples, of.count or samples)
        for name in self.metrics:
            needs = METRICS[name].needs
            if needs == "features" and len(self.reference.rows) == 0:
                raise UserError(
                    f"The published statistics of {of.dataset} are a mean and a covariance, which allow no "
                    f"{name}; build a reference from the images with `gdd reference`."
                )
            if needs == "probabilities" and not hasattr(self.extractor, "probabilities"):
                raise UserError(
                    f"The extractor {self.extractor.name} gives no class probabilities; leave out {name}."
                )
            if problem := too_few_images(count, name, self.extractor.dimension, self.extractor.name):
                raise UserError(f"{problem}.")


Comparisons = Mapping[str, Comparison]  # by the extractor's name in configuration


def open_comparisons(
    shape: tuple[int, int, int],
    reference: str | Path,
    wanted: Mapping[str, tuple[str, ...]],
    *,
    weights: Mapping[str, Path],
    dataset: str | None = None,
    dataset_sha256: str | None = None,
    device: torch.device | str = "cpu",
    trusted: Collection[str] = (),
) -> dict[str, Comparison]:
    """Return by extractor what images of `shape` (C, H, W) are compared with.

    Args:
        reference: a folder of `<extractor>.npz` as `gdd reference` writes them; or one such file, or
            published statistics, for metrics of one extractor.
        wanted: the metrics by extractor, as `gdd.config.metrics.by_extractor` returns them.
        weights: where the weights of each extractor lie.
        dataset: the data set that is meant; None is that of the reference.
        dataset_sha256: of its images as they are now, where that is known.
        trusted: see `open_extractor`.

    Raises:
        UserError: a file is missing or wrong, or does not belong to data set, resolution or extractor.
    """
    reference = Path(reference)
    if not reference.is_dir() and len(wanted) > 1:
        raise UserError(
            f"{reference} is one file, but {' and '.join(wanted)} are needed; give the folder of references."
        )
    comparisons = {}
    for name, metrics in wanted.items():
        found = load_reference(reference / f"{name}.npz" if reference.is_dir() else reference)
        extractor = open_extractor(name, weights.get(name), shape, device, trusted)
        found.check(extractor, shape[1], dataset, dataset_sha256)
        comparisons[name] = Comparison(extractor, found, metrics)
    return comparisons


def only(comparisons: Comparisons, metrics: Collection[str]) -> dict[str, Comparison]:
    """Return what is needed for some of the metrics."""
    kept = {
        name: replace(comparison, metrics=tuple(metric for metric in comparison.metrics if metric in metrics))
        for name, comparison in comparisons.items()
    }
    return {name: comparison for name, comparison in kept.items() if comparison.metrics}


def meaning(comparisons: Comparisons, samples: int) -> dict[str, Any]:
    """Return what the metrics of that many images mean, and what they are for real images."""
    definitions: dict[str, str] = {}
    references: dict[str, Any] = {}
    floor: dict[str, float] = {}
    for key, comparison in comparisons.items():
        reference, extractor = comparison.reference, comparison.extractor
        for name in comparison.metrics:
            definitions[name] = (
                f"{METRICS[name].definition}, of {samples:,} generated images{_against(reference, name)}, "
                f"on {extractor.definition}"
            )
            value = reference.floor(name)
            floor |= {} if value is None else {name: value}
        references[key] = {
            "dataset": reference.description.dataset,
            "dataset_sha256": reference.description.dataset_sha256,
            "resolution": reference.description.resolution,
            "count": reference.description.count,
            "sha256": reference.sha256,
            "extractor": extractor.name,
            "extractor_sha256": extractor.sha256,
        }
    return {"definitions": definitions, "references": references, "floor": floor}


def _against(reference: Reference, name: str) -> str:
    of, kept = reference.description, len(reference.rows)
    if METRICS[name].needs == "probabilities":
        return ""
    if of.count is None:
        return f" against published statistics of {of.dataset}"
    if METRICS[name].needs == "moments" or kept == of.count:
        return f" against {of.count:,} of {of.dataset}"
    return f" against {kept:,} evenly spaced ones of {of.count:,} of {of.dataset}"
