"""The papers' formulas in plain torch, for tests that compute a step once more."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + exp(x)), without an overflow."""
    return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


def one_step(network: nn.Module, z: Tensor, class_labels: Tensor | None) -> Tensor:
    """G(z) = c_skip x + c_out F(c_in x; ln(s) / 4), x = s z, at s = 80 with the boundary at 0.002."""
    s, e, data = 80.0, 0.002, 0.5
    c_skip = data**2 / ((s - e) ** 2 + data**2)
    c_out = (s - e) * data / math.sqrt(s**2 + data**2)
    c_in = 1 / math.sqrt(data**2 + s**2)
    level = torch.tensor([math.log(s) / 4], dtype=torch.float64)
    return c_skip * s * z + c_out * network(c_in * s * z, level, class_labels, None, None)


def adam(parameter: Tensor, gradient: Tensor, rate: float, beta2: float, steps: list[Tensor]) -> Tensor:
    """Return where Adam with beta1 = 0 and eps = 1e-8 takes a parameter after gradients `steps` before."""
    second = torch.zeros_like(gradient)
    for one in (*steps, gradient):
        second = beta2 * second + (1 - beta2) * one**2
    second = second / (1 - beta2 ** (len(steps) + 1))
    return parameter - rate * gradient / (second.sqrt() + 1e-8)
