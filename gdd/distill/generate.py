"""A generator's images by their indices: the same however they are split over calls and processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gdd.networks.preconditioning import OneStepGenerator
from gdd.randomness import labels, latents

SAMPLES = 64  # images from fixed latents kept with every snapshot
EVALUATION_SEED = 0  # the latents that samples and metrics are made from


@torch.no_grad()
def generate(
    generator: OneStepGenerator,
    start: int,
    count: int,
    *,
    seed: int = EVALUATION_SEED,
    only_class: int | None = None,
) -> Tensor:
    """Return the generator's images `start` to `start + count`, `[count, C, H, W]`, on its device.

    Latents and labels of image i come from (seed, i); `only_class` is the class of all images instead.
    """
    device = next(generator.parameters()).device
    z = latents(seed, start, count, generator.latent_shape)
    classes = generator.arch.label_dim
    one_hot = None
    if classes:
        indices = labels(seed, start, count, classes)
        if only_class is not None:
            indices = torch.full_like(indices, only_class)
        one_hot = functional.one_hot(indices.to(device), classes).float()
    return generator(z.to(device), one_hot)
