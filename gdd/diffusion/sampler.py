"""EDM's second-order sampler of the probability-flow ODE, with optional churn.

Source: arXiv:2206.00364, Algorithms 1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

# (x [B, C, H, W] float32, sigma [B] or scalar float32, class_labels) -> [B, C, H, W]
DenoiserFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Churn(NamedTuple):
    """Fresh noise within the sampler (EDM Algorithm 2): how much, between which sigmas, how inflated."""

    s_churn: float
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0


def sigma_schedule(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """Return the noise levels [steps + 1], float64, from sigma_max to sigma_min and then 0 (EDM Eq. 5).

    One step goes from sigma_max to 0 at once.
    """
    if steps < 1:
        raise ValueError(f"A sampler takes at least 1 step, not {steps}.")
    ramp = torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    levels = (high + ramp * (low - high)) ** rho
    return torch.cat([levels, levels.new_zeros(1)])


def function_evaluations(steps: int) -> int:
    """Return how often `heun_sample` calls the denoiser: twice a step, but once in the last."""
    return 2 * steps - 1


@torch.no_grad()
def heun_sample(
    denoiser: DenoiserFunction,
    latents: Tensor,
    class_labels: Tensor | None = None,
    *,
    steps: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    churn: Churn | None = None,
    noise: Callable[[Tensor], Tensor] | torch.Generator | None = None,
) -> Tensor:
    """Solve the sampling ODE, or with `churn` the SDE, from noise to images.

    Args:
        denoiser: D(x, sigma, class_labels); sees float32, while the state is kept in float64.
        latents: [B, C, H, W] of unit variance.
        class_labels: [B, label_dim], passed on to the denoiser.
        steps: number of steps; `function_evaluations(steps)` calls of the denoiser.
        sigma_min: smallest noise level above 0.
        sigma_max: noise level the latents are scaled to.
        rho: how strongly steps gather at low noise.
        churn: how much noise to add on the way; None adds none.
        noise: where that noise comes from: a generator, or a function returning unit noise like its argument.

    Returns:
        [B, C, H, W], float32.

    Raises:
        ValueError: `steps` below 1, or `churn` without `noise`.
    """
    churn = churn or Churn(s_churn=0.0)
    if churn.s_churn > 0 and noise is None:
        raise ValueError("Stochastic sampling needs a source of noise: pass `noise`.")
    levels = sigma_schedule(steps, sigma_min, sigma_max, rho).tolist()
    x = latents.double() * levels[0]
    for sigma, sigma_next in pairwise(levels):
        raised = sigma
        if churn.s_min <= sigma <= churn.s_max:
            raised = sigma * (1 + min(churn.s_churn / steps, math.sqrt(2) - 1))
        if raised > sigma:
            x = x + math.sqrt(raised**2 - sigma**2) * churn.s_noise * _unit_noise(x, noise)
        x = heun_step(denoiser, x, raised, sigma_next, class_labels)
    return x.float()


def heun_step(
    denoiser: DenoiserFunction,
    x: Tensor,
    sigma_from: Tensor | float,
    sigma_to: Tensor | float,
    class_labels: Tensor | None = None,
    order: int = 2,
) -> Tensor:
    """Go along dx/dsigma = (x - D(x; sigma)) / sigma from one noise level to another.

    Args:
        denoiser: as in `heun_sample`.
        x: [B, C, H, W]; its dtype is that of the state and of the result.
        sigma_from: [B] or a number, above 0.
        sigma_to: [B] or a number, in either direction. Images that go to 0 take a first-order step.
        class_labels: [B, label_dim].
        order: 1 (Euler, one evaluation) or 2 (Heun, two; one where `sigma_to` is the number 0).

    Returns:
        [B, C, H, W]: x at sigma_to. Gradients flow, if the caller has them enabled.
    """
    if order not in (1, 2):
        raise ValueError(f"The order of a step is 1 or 2, not {order}.")
    start, end = _levels(sigma_from, x), _levels(sigma_to, x)
    slope = _slope(denoiser, x, start, class_labels)
    euler = x + (end - start) * slope
    if order == 1 or (not isinstance(sigma_to, Tensor) and sigma_to == 0):
        return euler
    # There is no slope at 0: evaluate such images anywhere else, and keep their Euler step.
    slope_at_end = _slope(denoiser, euler, torch.where(end > 0, end, start), class_labels)
    heun = x + (end - start) * (slope + slope_at_end) / 2
    return torch.where(end > 0, heun, euler)


def _levels(sigma: Tensor | float, x: Tensor) -> Tensor:
    """Return sigma as [B, 1, 1, 1] or [1, 1, 1, 1] in the dtype of x."""
    return torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1)


def _slope(denoiser: DenoiserFunction, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
    return (x - denoiser(x.float(), sigma.flatten().float(), class_labels).to(x.dtype)) / sigma


def _unit_noise(x: Tensor, noise: Callable[[Tensor], Tensor] | torch.Generator | None) -> Tensor:
    if isinstance(noise, torch.Generator):
        return torch.randn(x.shape, generator=noise, dtype=x.dtype, device=noise.device).to(x.device)
    assert noise is not None
    return noise(x)
