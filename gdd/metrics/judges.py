"""What judges images: extractors with their references, and the metrics that come from each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from gdd.config.metrics import PIXELS
from gdd.errors import UserError
from gdd.files import sha256
from gdd.metrics.by_name import HasShape, fetched_extractor, make_extractor
from gdd.metrics.extractors import FeatureExtractor
from gdd.metrics.published import holds_published, published_reference
from gdd.metrics.reference import Reference, check_compatible, load_reference


@dataclass(frozen=True)
class Judge:
    """An extractor, what its features are compared with, and which results come from it."""

    extractor: FeatureExtractor
    reference: Reference
    reference_sha256: str  # of the file
    metrics: Mapping[str, str]  # names of results, and of `evaluate_block`


class Judged(HasShape, Protocol):
    """What is going to be judged."""

    @property
    def dataset(self) -> str | None:
        """The data set that the images imitate, where that is known."""
        ...


def only(judges: Mapping[str, Judge], metrics: Collection[str]) -> dict[str, Judge]:
    """Return the judges of some of the results, with nothing else to do."""
    kept = {
        name: replace(judge, metrics={key: of for key, of in judge.metrics.items() if key in metrics})
        for name, judge in judges.items()
    }
    return {name: judge for name, judge in kept.items() if judge.metrics}


def open_judges(
    source: Judged,
    reference: str | Path,
    wanted: Mapping[str, Mapping[str, str]],
    *,
    weights: Mapping[str, Path],
    config: Path,
    resources: Path,
    dataset: str | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Judge]:
    """Return by extractor what the images of `source` are judged with.

    Args:
        source: what is going to be judged.
        reference: a folder of `<extractor>.npz` as `gdd reference` writes them; or one such file, or
            published statistics, for metrics of one extractor.
        wanted: what `gdd.config.evaluation.spaces` returned.
        weights: files of extractors that are not those of sources.yaml.
        config: the folder of sources.yaml.
        resources: the folder of fetched files.
        dataset: the data set that is meant, where the source is of another or does not say.
        device: where extractors run.

    Raises:
        UserError: a file is missing or wrong, or does not belong to data set, resolution or extractor.
    """
    reference = Path(reference)
    if not reference.is_dir() and len(wanted) > 1:
        raise UserError(
            f"{reference} is one file, but {' and '.join(wanted)} are needed; give the folder of references."
        )
    judges = {}
    for name, metrics in wanted.items():
        file = reference / f"{name}.npz" if reference.is_dir() else reference
        if not file.is_file():
            raise UserError(f"The reference {file} does not exist; build it with `gdd reference`.")
        path = None
        if name != PIXELS:
            path = weights.get(name) or fetched_extractor(name, config, resources)
        extractor = make_extractor(path, source, name, device)
        found = (
            published_reference(file, extractor, source.shape[1])
            if holds_published(file)
            else load_reference(file)
        )
        of = dataset or source.dataset or found.description.dataset
        check_compatible(found, extractor, of, source.shape[1])
        judges[name] = Judge(extractor, found, sha256(file), metrics)
    return judges
