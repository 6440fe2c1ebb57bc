"""A teacher's samples by image index, and pairs of noise and image for direct imitation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from gdd.config.recipe import Sampler
from gdd.diffusion.sampler import heun_sample
from gdd.errors import UserError
from gdd.files import sha256
from gdd.networks.checkpoint import load_denoiser, load_weights, save_weights
from gdd.networks.preconditioning import Denoiser
from gdd.randomness import labels, latents, noise, stream

PAIR_BATCH = 250


def image_shape(denoiser: Denoiser) -> tuple[int, int, int]:
    """Return one image's (C, H, W)."""
    arch = denoiser.arch
    return arch.img_channels, arch.img_resolution, arch.img_resolution


def sample_range(denoiser: Denoiser, sampler: Sampler, seed: int, start: int, count: int) -> Tensor:
    """Return the images `start` to `start + count` of the teacher, `[count, C, H, W]`."""
    device = next(denoiser.parameters()).device
    z = latents(seed, start, count, image_shape(denoiser)).to(device)
    classes = denoiser.arch.label_dim
    one_hot = None
    if classes:
        one_hot = functional.one_hot(labels(seed, start, count, classes), classes).float().to(device)
    # A stream for every image, as for the latents, so that image i is the same in any split over batches.
    sources = [stream(seed, "sampler noise", index) for index in range(start, start + count)]

    def fresh_noise(x: Tensor) -> Tensor:
        drawn = [torch.randn(x.shape[1:], generator=source, dtype=x.dtype) for source in sources]
        return torch.stack(drawn).to(x.device)

    return heun_sample(denoiser, z, sampler, one_hot, fresh_noise)


@dataclass(frozen=True)
class Pairs:
    """Noise `z` and the end `x` of the teacher's ODE from it, each `[N, C, H, W]`; class indices or None."""

    z: Tensor
    x: Tensor
    labels: Tensor | None


def make_pairs(
    path: str | Path,
    teacher: str | Path,
    sampler: Sampler,
    count: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> None:
    """Solve the teacher's ODE from `count` noises on `device` and write the pairs to `path`.

    Raises:
        UserError: the sampler is stochastic, so that noise and image do not belong together.
    """
    if sampler.churn > 0:
        raise UserError("Pairs of noise and image need a deterministic sampler; set 'churn' to 0.")
    denoiser = load_denoiser(teacher).to(device)
    classes = denoiser.arch.label_dim
    shape = image_shape(denoiser)
    z = torch.stack([noise(seed, "pair", index, shape) for index in range(count)])
    indices = labels(seed, 0, count, classes) if classes else None
    parts = []
    for first in range(0, count, PAIR_BATCH):
        chunk = slice(first, first + PAIR_BATCH)
        one_hot = None
        if indices is not None:
            one_hot = functional.one_hot(indices[chunk], classes).float().to(device)
        parts.append(heun_sample(denoiser, z[chunk].to(device), sampler, one_hot).cpu())
    tensors = {"z": z, "x": torch.cat(parts)}
    if indices is not None:
        tensors["labels"] = indices
    description = {
        "kind": "pairs",
        "teacher_sha256": sha256(teacher),
        "sampler": sampler.model_dump(mode="json"),
        "seed": seed,
    }
    save_weights(path, tensors, description)


def load_pairs(path: str | Path) -> Pairs:
    """Read what `make_pairs` wrote.

    Raises:
        UserError: the file is missing, broken, or something else.
    """
    tensors, description = load_weights(path)
    if description.get("kind") != "pairs":
        raise UserError(f"{path} holds no pairs of noise and image; make it with 'gdd pairs'.")
    return Pairs(tensors["z"], tensors["x"], tensors.get("labels"))
