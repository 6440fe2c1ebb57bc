"""A generator's images by their indices, its snapshots, and which of them stay."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from gdd.config.recipe import Recipe
from gdd.config.records import EVALUATION_SEED
from gdd.data.image_array import quantise
from gdd.files import read_json, write_json, write_npz
from gdd.networks.checkpoint import save_network
from gdd.networks.preconditioning import OneStepGenerator
from gdd.randomness import labels, latents
from gdd.training.world import to_device

HASHES = "snapshots.json"  # of the snapshots by name, in the run's state
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


def save_snapshot(folder: Path, average: OneStepGenerator, images: int, recipe: Recipe, seed: int) -> None:
    """Write an average's weights, their hash for `distill`, and images from fixed latents."""
    digest = save_network(
        folder / "snapshots" / f"{images:09d}.safetensors",
        average,
        images=images,
        dataset=recipe.dataset,
        recipe_hash=recipe.fingerprint(),
        seed=seed,
    )
    hashes = folder / HASHES
    known = read_json(hashes, dict) if hashes.exists() else {}
    write_json(hashes, known | {f"{images:09d}": digest})
    # A diverged network still leaves its snapshot; that it diverged is the evaluation's to say.
    samples = quantise(generate(average, 0, SAMPLES).nan_to_num())
    write_npz(folder / "samples" / f"{images:09d}.npz", images=samples.cpu().numpy())


def keep_only(folder: Path, images: Collection[int]) -> None:
    """Remove the snapshots of the run in `folder` but those at these image counts.

    For recipes with `keep: reported`, once the run has been evaluated. Samples and metrics of the others
    stay. Both links of a snapshot are removed; a call that was interrupted can be repeated.
    """
    for place in (folder / "snapshots", folder / "state" / "snapshots"):
        for path in place.glob("*.safetensors"):
            if int(path.stem) not in images:
                path.unlink()
