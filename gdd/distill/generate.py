"""A generator's images by their indices, and which snapshots of a run stay."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from gdd.config.records import EVALUATION_SEED
from gdd.networks.preconditioning import OneStepGenerator
from gdd.randomness import labels, latents
from gdd.training.world import to_device

SAMPLES = 64  # images from fixed latents kept with every snapshot


@torch.no_grad()
def generate(
    generator: OneStepGenerator,
    start: int,
    count: int,
    *,
    seed: int = EVALUATION_SEED,
    only_class: int | None = None,
) -> Tensor:
    """Return the generator's images `start` to `start + count`, [count, C, H, W], on its device.

    They are the same however they are split over calls: latents and labels of image i come from (seed, i);
    `only_class` is the class of all images instead.
    """
    device = next(generator.parameters()).device
    z = latents(seed, start, count, generator.latent_shape)
    classes = generator.arch.label_dim
    one_hot = None
    if classes:
        indices = labels(seed, start, count, classes)
        if only_class is not None:
            indices = torch.full_like(indices, only_class)
        one_hot = functional.one_hot(to_device(indices, device), classes).float()
    return generator(to_device(z, device), one_hot)


def keep_only(folder: Path, images: Collection[int]) -> None:
    """Remove the snapshots of the run in `folder` but those at these image counts.

    For recipes with `keep: reported`, once the run has been evaluated. Samples and metrics of the others
    stay. Both links of a snapshot are removed; a call that was interrupted can be repeated.
    """
    for place in (folder / "snapshots", folder / "state" / "snapshots"):
        for path in place.glob("*.safetensors"):
            if int(path.stem) not in images:
                path.unlink()
