"""What images are evaluated with: extractors, the references of a data set, and the metrics wanted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gdd.config.metrics import METRICS, PIXELS
from gdd.errors import UserError
from gdd.files import sha256
from gdd.metrics.extractors import Extractor, open_extractor
from gdd.metrics.frechet import Moments, require_enough_samples
from gdd.metrics.published import UNKNOWN_COUNT, holds_published, published_reference
from gdd.metrics.reference import Features, Reference, check_compatible, compute, load_reference
from gdd.metrics.sources import BATCH, Source


@dataclass(frozen=True)
class Comparison:
    """An extractor, the reference that its features are compared with, and the metrics wanted of the two."""

    extractor: Extractor
    reference: Reference
    reference_sha256: str  # of the file
    metrics: tuple[str, ...]

    def inputs(self) -> dict[str, list[str]]:
        """Return what decides each metric besides the images, as plain JSON values."""
        made_from = [self.extractor.definition, self.extractor.sha256, self.reference_sha256]
        return {name: [METRICS[name].definition, *made_from] for name in self.metrics}

    def check(self, samples: int) -> None:
        """Refuse metrics that cannot be had, before anything is generated, which is what takes the time.

        Raises:
            UserError: published statistics or the extractor do not allow one, or there are too few images.
        """
        of = self.reference.description
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
            if needs == "moments":
                fewest = samples if of.count == UNKNOWN_COUNT else min(samples, of.count)
                require_enough_samples(fewest, self.extractor.dimension)

    def results(self, rows: Tensor) -> dict[str, float]:
        """Return the metrics of generated images by their features [N, D], and spreads as `<name>_std`.

        Raises:
            UserError: too few images for a metric, or features that are not finite.
        """
        extractor: Any = self.extractor
        fake = Features(Moments.of(extractor.dimension, rows.split(BATCH)).gaussian(), rows)
        real = Features(self.reference.gaussian, self.reference.rows.to(rows.device))
        return compute(self.metrics, real, fake, lambda: extractor.probabilities(rows))


Comparisons = Mapping[str, Comparison]  # by the extractor's name in configuration


def open_comparisons(
    source: Source,
    reference: str | Path,
    wanted: Mapping[str, tuple[str, ...]],
    *,
    weights: Mapping[str, Path],
    dataset: str | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Comparison]:
    """Return by extractor what the images of `source` are compared with.

    Args:
        source: what is going to be evaluated.
        reference: a folder of `<extractor>.npz` as `gdd reference` writes them; or one such file, or
            published statistics, for metrics of one extractor.
        wanted: what `gdd.config.metrics.by_extractor` returned.
        weights: where the weights of each extractor lie.
        dataset: the data set that is meant, where the source is of another or does not say.
        device: where extractors run.

    Raises:
        UserError: a file is missing or wrong, or does not belong to data set, resolution or extractor.
    """
    reference, resolution = Path(reference), source.shape[1]
    if not reference.is_dir() and len(wanted) > 1:
        raise UserError(
            f"{reference} is one file, but {' and '.join(wanted)} are needed; give the folder of references."
        )
    comparisons = {}
    for name, metrics in wanted.items():
        file = reference / f"{name}.npz" if reference.is_dir() else reference
        if not file.is_file():
            raise UserError(f"The reference {file} does not exist; build it with `gdd reference`.")
        path = None if name == PIXELS else weights[name]
        extractor = open_extractor(name, path, source.shape, device)
        if holds_published(file):
            found = published_reference(file, extractor, resolution)
        else:
            found = load_reference(file)
        meant = dataset or source.dataset or found.description.dataset
        check_compatible(found, extractor, meant, resolution)
        comparisons[name] = Comparison(extractor, found, sha256(file), metrics)
    return comparisons


def only(comparisons: Comparisons, metrics: Collection[str]) -> dict[str, Comparison]:
    """Return what is needed for some of the metrics."""
    kept = {
        name: replace(comparison, metrics=tuple(metric for metric in comparison.metrics if metric in metrics))
        for name, comparison in comparisons.items()
    }
    return {name: comparison for name, comparison in kept.items() if comparison.metrics}


def meaning(comparisons: Comparisons, samples: int) -> dict[str, Any]:
    """Return what numbers of that many images mean, and what they are for real images."""
    definitions: dict[str, str] = {}
    references: dict[str, Any] = {}
    floor: dict[str, float] = {}
    for key, comparison in comparisons.items():
        of, extractor = comparison.reference.description, comparison.extractor
        for name in comparison.metrics:
            definitions[name] = (
                f"{METRICS[name].definition}, of {samples:,} generated images{_against(comparison, name)}, "
                f"on {extractor.definition}"
            )
            value = comparison.reference.floor(name)
            floor |= {} if value is None or of.count == UNKNOWN_COUNT else {name: value}
        references[key] = {
            "dataset": of.dataset,
            "dataset_sha256": of.dataset_sha256,
            "resolution": of.resolution,
            "count": None if of.count == UNKNOWN_COUNT else of.count,
            "sha256": comparison.reference_sha256,
            "extractor": extractor.name,
            "extractor_sha256": extractor.sha256,
        }
    return {"definitions": definitions, "references": references, "floor": floor}


def _against(comparison: Comparison, name: str) -> str:
    of, kept = comparison.reference.description, len(comparison.reference.rows)
    if METRICS[name].needs == "probabilities":
        return ""
    if of.count == UNKNOWN_COUNT:
        return f" against published statistics of {of.dataset}"
    if METRICS[name].needs == "moments" or kept == of.count:
        return f" against {of.count:,} of {of.dataset}"
    return f" against {kept:,} evenly spaced ones of {of.count:,} of {of.dataset}"
