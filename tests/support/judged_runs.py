"""A run's snapshots and what they are compared with, small enough for a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from gdd.config.evaluation import Evaluation
from gdd.config.metrics import by_extractor
from gdd.config.recipe import Sampler
from gdd.metrics.comparison import open_comparisons
from gdd.metrics.extractors import open_extractor
from gdd.metrics.reference import build_reference
from gdd.metrics.sources import open_source
from gdd.networks.checkpoint import load_denoiser, save_network
from gdd.networks.preconditioning import OneStepGenerator

EVALUATION = Evaluation(extractor="one", pixels=True, samples=80, blocks=2)


def write_references(world: Any, folder: Path) -> Path:
    """Write the data set's features and pixels to `folder`, and return it."""
    # Pixels are 64 features, more than the world has images.
    data = np.concatenate([np.asarray(world.data.images)] * 2)
    data[44:] = 255 - data[44:]
    for name in ("one", "pixels"):
        extractor = open_extractor(name, world.backbones["one"], world.data.shape)
        path, of = folder / f"{name}.npz", {"dataset": "blobs", "dataset_sha256": world.data.sha256}
        build_reference(data, extractor, path=path, batch=16, **of)
    return folder


def compared_with(
    world: Any, folder: Path, evaluation: Evaluation = EVALUATION, weights: str = "one", **options: Any
) -> Any:
    """Open the references in `folder` for what an evaluation wants."""
    return open_comparisons(
        open_source(world.teachers[False], sampler=Sampler(steps=1)),
        folder,
        by_extractor(evaluation.wanted(), "one"),
        weights={"one": world.backbones[weights]},
        config=folder,
        resources=folder,
        dataset="blobs",
        **options,
    )


def make_run(
    world: Any,
    folder: Path,
    conditional: bool = False,
    counts: tuple[int, ...] = (16, 32, 48),
    scales: tuple[int, ...] = (1, 2, 3),
) -> Path:
    """Write snapshots that drift away from the teacher."""
    for images, scale in zip(counts, scales, strict=False):
        generator = OneStepGenerator.from_denoiser(load_denoiser(world.teachers[conditional]))
        with torch.no_grad():
            generator.model.dec["8x8_aux_conv"].weight *= scale
        save_network(folder / "snapshots" / f"{images:09d}.safetensors", generator)
    return folder
