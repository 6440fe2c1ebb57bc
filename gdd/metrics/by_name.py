"""Extractors by their names in configuration and on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from gdd.config.load import load_all_sources
from gdd.config.local import load_local
from gdd.config.pretrained import EXTRACTORS
from gdd.errors import UserError
from gdd.fetch.fetch import Resources, choose
from gdd.metrics.clean import CleanInceptionExtractor
from gdd.metrics.extractors import ClassifierExtractor, FeatureExtractor, PixelExtractor
from gdd.metrics.inception import InceptionExtractor
from gdd.metrics.vision_transformers import ClipExtractor, DinoExtractor

BY_NAME = {
    kind.name: kind for kind in (InceptionExtractor, CleanInceptionExtractor, ClipExtractor, DinoExtractor)
}


class HasShape(Protocol):
    """What holds images of one shape."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """One image's (C, H, W)."""
        ...


def make_extractor(
    path: str | Path | None, data: HasShape, name: str | None = None, device: torch.device | str = "cpu"
) -> FeatureExtractor:
    """Return the extractor of a weights file, or the pixels themselves for None; see `load_extractor`."""
    if path is None:
        channels, resolution, _ = data.shape
        return PixelExtractor(resolution, channels)
    return load_extractor(name, path, device)


def load_extractor(
    name: str | None, path: str | Path, device: torch.device | str = "cpu"
) -> FeatureExtractor:
    """Return the extractor `name` from its weights.

    A name that is no key of `gdd.config.pretrained.EXTRACTORS` is that of a small classifier. Without a name,
    a `.pt` file is the published Inception network and any other a classifier.

    Raises:
        UserError: the file is missing, damaged, or another network's.
    """
    if name is None:
        name = InceptionExtractor.name if Path(path).suffix == ".pt" else ClassifierExtractor.name
    return BY_NAME.get(name, ClassifierExtractor)(path, device)


def fetched_extractor(name: str, config: Path, resources: Path) -> Path:
    """Return where the weights of a published extractor lie, once they are known to be the right ones.

    Args:
        name: a key of `gdd.config.pretrained.EXTRACTORS`.
        config: the folder of sources.yaml and local.yaml.
        resources: the folder of fetched files.

    Raises:
        UserError: there is no such extractor, it has not been fetched, or its hash is another than published
            or than that of the first copy.
    """
    if name not in EXTRACTORS:
        raise UserError(
            f"'{name}' is no published extractor ({', '.join(EXTRACTORS)}); "
            f"say where its weights lie with --extractor {name}=FILE."
        )
    ((source_name, source),) = choose(load_all_sources([config]), [EXTRACTORS[name]]).items()
    if not Resources(resources, load_local(config)).has(source):
        raise UserError(
            f"The extractor {name} needs {resources / source.path}, which is not there; "
            f"run `gdd fetch {source_name}`."
        )
    return resources / source.path
