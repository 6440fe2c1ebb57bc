"""What `gdd fetch` reads of a file at once: the names, shapes and types of its tensors, as a job would."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gdd.config.config import Config
from gdd.config.names import BACKBONES, CLASS_EMBEDDINGS, EXTRACTORS, LPIPS
from gdd.stages.inputs import stated_sha256

CODE = ("inception", "inception-clean")  # TorchScript
CLASSES = 1000  # of ImageNet, all of which the class embeddings have

# Each imports what it needs, because PyTorch and timm take seconds, and most calls find every file there.


def layouts(config: Config) -> dict[str, Callable[[Path], Any]]:
    """Return, by the name in sources.yaml, what reads a file and raises a UserError for another layout."""
    checks: dict[str, Callable[[Path], Any]] = {}
    for name, source in config.sources.items():
        if source.path.startswith("teachers/"):
            checks[name] = partial(_network, key="ema", kind="denoiser", expected=None)
    for teacher in config.teachers.values():
        if teacher.published:
            checks[teacher.published] = partial(
                _network, key="ema", kind="denoiser", expected=teacher.architecture
            )
    for other in config.external.values():
        read = partial(_network, key=other.key, kind="generator", expected=None)
        published = [of.published for of in other.settings.values() if of.published]
        checks |= dict.fromkeys(published, read if other.holds == "generator" else _images)
    for dataset in config.datasets.values():
        if dataset.statistics:
            checks[dataset.statistics] = _statistics
    checks |= {source: partial(_backbone, name) for name, source in BACKBONES.items()}
    trusted = stated_sha256(config)
    for name, file in reversed(EXTRACTORS.items()):
        checksum = config.sources[file].checksum if file in config.sources else None
        if name not in CODE or (checksum or "").startswith("sha256:"):  # unknown code is not run
            checks[file] = partial(_extractor, name, trusted)
    checks |= dict.fromkeys(CLASS_EMBEDDINGS.values(), _embedding)
    return {**checks, LPIPS: _lpips}


def _network(path: Path, *, key: str, kind: Any, expected: Any) -> None:
    from gdd.networks.checkpoint import load_generator
    from gdd.networks.edm_import import read_network

    if path.suffix == ".safetensors":
        load_generator(path)
    else:
        read_network(path, key, kind, expected)


def _images(path: Path) -> None:
    from gdd.metrics.sources import open_source

    open_source(path)


def _statistics(path: Path) -> None:
    from gdd.metrics.reference import load_reference

    load_reference(path)


def _backbone(name: str, path: Path) -> None:
    from gdd.adversary.backbones import load_published

    load_published(name, path, 0)


def _extractor(name: str, trusted: list[str], path: Path) -> None:
    from gdd.metrics.extractors import open_extractor

    open_extractor(name, path, (3, 32, 32), "cpu", trusted)


def _embedding(path: Path) -> None:
    from gdd.adversary.published_weights import load_class_embedding

    load_class_embedding(path, CLASSES)


def _lpips(path: Path) -> None:
    from gdd.distill.distances import load_lpips

    load_lpips(path)
