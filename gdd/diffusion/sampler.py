"""EDM's second-order sampler (arXiv:2206.00364), a teacher's samples by index, pairs of noise and image."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from gdd.config.recipe import Sampler
from gdd.errors import UserError
from gdd.files import sha256
from gdd.networks.checkpoint import load_denoiser, load_weights, save_weights
from gdd.networks.preconditioning import Denoiser, noise_levels
from gdd.randomness import labels, latents, noise, stream
from gdd.training.world import to_device

# (x [B, C, H, W] float32, sigma [B] or scalar float32, class_labels) -> [B, C, H, W]
DenoiserFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]

PAIR_BATCH = 250


@torch.no_grad()
def heun_sample(
    denoiser: DenoiserFunction,
    latents: Tensor,
    sampler: Sampler,
    class_labels: Tensor | None = None,
    noise: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Solve the sampling ODE, or with churn the SDE, from noise to images (EDM Algorithms 1 and 2).

    The denoiser sees float32, while the state is kept in float64; it is called `sampler.evaluations` times.
    `noise` returns unit noise like its argument, and is needed with churn only. `latents` [B, C, H, W] have
    unit variance; the result is float32.
    """
    levels = [*noise_levels(sampler.steps - 1).tolist(), 0.0]
    x = latents.double() * levels[0]
    for level, next_level in pairwise(levels):
        sigma = level
        if sampler.churn > 0 and sampler.churn_min <= level <= sampler.churn_max:
            assert noise
            sigma = level * (1 + min(sampler.churn / sampler.steps, math.sqrt(2) - 1))
            x = x + math.sqrt(sigma**2 - level**2) * sampler.churn_noise * noise(x)
        x = heun_step(denoiser, x, sigma, next_level, class_labels)
    return x.float()


def heun_step(
    denoiser: DenoiserFunction,
    x: Tensor,
    sigma_from: Tensor | float,
    sigma_to: Tensor | float,
    class_labels: Tensor | None = None,
) -> Tensor:
    """Go along dx/dsigma = (x - D(x; sigma)) / sigma from one noise level to another.

    Returns x [B, C, H, W] at `sigma_to`, in the dtype of x. Noise levels are [B] or numbers. There is no
    slope at 0: images that go there take an Euler step (one evaluation instead of two, where `sigma_to` is
    the number 0).
    """
    start, end = _levels(sigma_from, x), _levels(sigma_to, x)
    slope = _slope(denoiser, x, start, class_labels)
    euler = x + (end - start) * slope
    if not isinstance(sigma_to, Tensor) and sigma_to == 0:
        return euler
    slope_at_end = _slope(denoiser, euler, torch.where(end > 0, end, start), class_labels)
    heun = x + (end - start) * (slope + slope_at_end) / 2
    return torch.where(end > 0, heun, euler)


def _levels(sigma: Tensor | float, x: Tensor) -> Tensor:
    """Return sigma as [B, 1, 1, 1] or [1, 1, 1, 1] in the dtype of x."""
    if not isinstance(sigma, Tensor):
        return torch.full((1, 1, 1, 1), sigma, dtype=x.dtype, device=x.device)  # a GPU's host does not wait
    return sigma.to(x).reshape(-1, 1, 1, 1)


def _slope(denoiser: DenoiserFunction, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
    return (x - denoiser(x.float(), sigma.flatten().float(), class_labels).to(x.dtype)) / sigma


def sample_range(denoiser: Denoiser, sampler: Sampler, seed: int, start: int, count: int) -> Tensor:
    """Return the images `start` to `start + count` of the teacher, [count, C, H, W]."""
    device = next(denoiser.parameters()).device
    classes, one_hot = denoiser.arch.label_dim, None
    z = to_device(latents(seed, start, count, _image_shape(denoiser)), device)
    if classes:
        one_hot = functional.one_hot(to_device(labels(seed, start, count, classes), device), classes).float()
    # A stream for every image, as for the latents, so that image i is the same in any split over batches.
    sources = [stream(seed, "sampler noise", index) for index in range(start, start + count)]

    def fresh_noise(x: Tensor) -> Tensor:
        drawn = [torch.randn(x.shape[1:], generator=source, dtype=x.dtype) for source in sources]
        return to_device(torch.stack(drawn), x.device)

    return heun_sample(denoiser, z, sampler, one_hot, fresh_noise)


def _image_shape(denoiser: Denoiser) -> tuple[int, int, int]:
    arch = denoiser.arch
    return arch.img_channels, arch.img_resolution, arch.img_resolution


class Pairs(NamedTuple):
    """Noise `z` and the end `x` of the teacher's ODE from it, [N, C, H, W]; class indices [N] or None."""

    z: Tensor
    x: Tensor
    labels: Tensor | None


def make_pairs(path: Path, teacher: Path, steps: int, count: int, device: torch.device | str = "cpu") -> None:
    """Solve the teacher's ODE in so many steps from `count` noises on `device`; write the pairs to `path`."""
    sampler, seed = Sampler(steps=steps), 0
    denoiser = load_denoiser(teacher).to(device)
    classes = denoiser.arch.label_dim
    z = torch.stack([noise(seed, "pair", index, _image_shape(denoiser)) for index in range(count)])
    tensors = {"labels": labels(seed, 0, count, classes)} if classes else {}
    parts = []
    for first in range(0, count, PAIR_BATCH):
        chunk, one_hot = slice(first, first + PAIR_BATCH), None
        if classes:
            one_hot = functional.one_hot(tensors["labels"][chunk], classes).float().to(device)
        parts.append(heun_sample(denoiser, z[chunk].to(device), sampler, one_hot).cpu())
    tensors |= {"z": z, "x": torch.cat(parts)}
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
    if description.get("kind") != "pairs" or not {"z", "x"} <= tensors.keys():
        raise UserError(f"{path} holds no pairs of noise and image; make it with 'gdd pairs'.")
    return Pairs(tensors["z"], tensors["x"], tensors.get("labels"))
