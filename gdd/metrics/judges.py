"""What judges images: extractors with their references, and the metrics that come from each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gdd.errors import UserError
from gdd.files import sha256
from gdd.metrics.by_name import fetched_extractor
from gdd.metrics.evaluation import NEIGHBOUR_METRICS
from gdd.metrics.extractors import FeatureExtractor
from gdd.metrics.published import holds_published, published_reference
from gdd.metrics.reference import Reference, check_compatible, load_reference
from gdd.metrics.sources import ImageSource
from gdd.metrics.stages import PIXELS, make_extractor

# By a result's name: where it is computed, and what it is called there. All others are the judge's.
ELSEWHERE = {
    "clean_fid": ("inception-clean", "fid"),
    "clean_kid": ("inception-clean", "kid"),
    "clip_fid": ("clip", "fid"),
    "fd_dinov2": ("dinov2", "fid"),
    "pixel_fid": (PIXELS, "fid"),
    "pixel_precision": (PIXELS, "precision"),
    "pixel_recall": (PIXELS, "recall"),
    "nearest": (PIXELS, "nearest"),
}
OF_THE_JUDGE = ("fid", "kid", *NEIGHBOUR_METRICS, "inception_score")


@dataclass(frozen=True)
class Judge:
    """An extractor, what its features are compared with, and which results come from it."""

    extractor: FeatureExtractor
    reference: Reference
    reference_sha256: str  # of the file
    metrics: Mapping[str, str]  # names of results, and of `evaluate_block`


def spaces(metrics: Sequence[str], judge: str) -> dict[str, dict[str, str]]:
    """Return by extractor the results asked for and what `evaluate_block` calls them.

    Raises:
        UserError: there is no such metric.
    """
    found: dict[str, dict[str, str]] = {}
    for metric in (name.replace("-", "_") for name in metrics):
        if metric not in ELSEWHERE and metric not in OF_THE_JUDGE:
            raise UserError(
                f"There is no metric '{metric}'; choose from {', '.join((*OF_THE_JUDGE, *ELSEWHERE))}."
            )
        space, inner = ELSEWHERE.get(metric, (judge, metric))
        found.setdefault(space, {})[metric] = inner
    return found


def open_judges(
    source: ImageSource,
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
        source: where the images come from.
        reference: a folder of `<extractor>.npz` as `gdd reference` writes them; or one such file, or
            published statistics, for metrics of one extractor.
        wanted: what `spaces` returned.
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
