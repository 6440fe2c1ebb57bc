"""EDM's second-order sampler of the probability-flow ODE, with optional churn (arXiv:2206.00364)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from gdd.config.recipe import Sampler
from gdd.networks.preconditioning import noise_levels

# (x [B, C, H, W] float32, sigma [B] or scalar float32, class_labels) -> [B, C, H, W]
DenoiserFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@torch.no_grad()
def heun_sample(
    denoiser: DenoiserFunction,
    latents: Tensor,
    sampler: Sampler,
    class_labels: Tensor | None = None,
    noise: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Solve the sampling ODE, or with churn the SDE, from noise to images (EDM Algorithms 1 and 2).

    Args:
        denoiser: sees float32, while the state is kept in float64; is called `sampler.evaluations` times.
        latents: [B, C, H, W] of unit variance.
        sampler: how many steps, and how much noise is added on the way.
        class_labels: [B, label_dim], passed on to the denoiser.
        noise: returns unit noise like its argument; called with churn only.

    Returns:
        [B, C, H, W], float32.
    """
    if sampler.churn > 0 and noise is None:
        raise ValueError("Stochastic sampling needs a source of noise: pass `noise`.")
    levels = [*noise_levels(sampler.steps - 1).tolist(), 0.0]
    x = latents.double() * levels[0]
    for level, next_level in pairwise(levels):
        sigma = level
        if noise is not None and sampler.churn > 0 and sampler.churn_min <= level <= sampler.churn_max:
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

    Args:
        denoiser: as in `heun_sample`.
        x: [B, C, H, W]; its dtype is that of the state and of the result.
        sigma_from: [B] or a number, above 0.
        sigma_to: [B] or a number, in either direction. There is no slope at 0: images that go there take an
            Euler step (one evaluation instead of two, where `sigma_to` is the number 0).
        class_labels: [B, label_dim].

    Returns:
        [B, C, H, W]: x at sigma_to. Gradients flow, if the caller has them enabled.
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
    return torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1)


def _slope(denoiser: DenoiserFunction, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
    return (x - denoiser(x.float(), sigma.flatten().float(), class_labels).to(x.dtype)) / sigma
