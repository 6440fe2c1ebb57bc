"""EDM's denoising loss (arXiv:2206.00364, Eq. 8 and Table 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from gdd.diffusion.sampler import DenoiserFunction


def edm_loss(
    denoiser: DenoiserFunction,
    images: Tensor,
    class_labels: Tensor | None = None,
    *,
    generator: torch.Generator,
    p_mean: float = -1.2,
    p_std: float = 1.2,
    sigma_data: float = 0.5,
) -> Tensor:
    """Return lambda(sigma) ||D(y + n; sigma) - y||^2 of each image, as a mean over its C*H*W values.

    The weight lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 makes the loss of a network
    whose output is zero about 1 at every noise level. EDM's code sums over the values where this takes the
    mean; the factor between them is the constant C*H*W, to which Adam is indifferent.

    Args:
        denoiser: D(x, sigma [B], class_labels).
        images: [B, C, H, W] in [-1, 1].
        class_labels: [B, label_dim], one-hot.
        generator: source of noise levels and noise; may live on another device than the images.
        p_mean: mean of ln(sigma).
        p_std: standard deviation of ln(sigma).
        sigma_data: standard deviation of the data.

    Returns:
        [B], float32.
    """
    normal = torch.randn(len(images), generator=generator, device=generator.device).to(images.device)
    sigma = (p_mean + p_std * normal).exp()
    noise = torch.randn(images.shape, generator=generator, device=generator.device).to(images.device)
    denoised = denoiser(images + sigma.reshape(-1, 1, 1, 1) * noise, sigma, class_labels)
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    return weight * (denoised - images).square().flatten(1).mean(1)
