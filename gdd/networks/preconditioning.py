"""EDM's preconditioning around a U-Net: the denoiser, and the same network as a one-step generator."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gdd.config.architecture import Architecture
from gdd.networks.unet import build_unet

SIGMA_DATA = 0.5  # standard deviation of images in [-1, 1]
SIGMA_MAX = 80.0  # where the one-step generator starts
SIGMA_MIN = 0.002  # where its boundary condition holds


class Coefficients(NamedTuple):
    """D(x; sigma) = skip x + out F(in_ x, noise), each of the shape of sigma (EDM Eq. 7)."""

    skip: Tensor
    out: Tensor
    in_: Tensor
    noise: Tensor


def denoiser_coefficients(sigma: Tensor) -> Coefficients:
    """Return EDM's coefficients (EDM Table 1)."""
    variance = sigma**2 + SIGMA_DATA**2
    return Coefficients(
        skip=SIGMA_DATA**2 / variance,
        out=sigma * SIGMA_DATA / variance.sqrt(),
        in_=1 / variance.sqrt(),
        noise=sigma.log() / 4,
    )


def boundary_coefficients(sigma: Tensor) -> Coefficients:
    """Return coefficients that make it the identity at sigma = 0.002 (arXiv:2303.01469, App. C)."""
    from_boundary = sigma - SIGMA_MIN
    edm = denoiser_coefficients(sigma)
    return edm._replace(
        skip=SIGMA_DATA**2 / (from_boundary**2 + SIGMA_DATA**2),
        out=from_boundary * SIGMA_DATA / (sigma**2 + SIGMA_DATA**2).sqrt(),
    )


class _Preconditioned(nn.Module):
    """A U-Net between coefficients. Weights and results are float32, the U-Net computes in `dtype`."""

    def __init__(self, arch: Architecture, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.arch = arch
        self.dtype = dtype
        self.model = build_unet(arch)

    def _apply_model(
        self,
        x: Tensor,
        coefficients: Coefficients,
        class_labels: Tensor | None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        skip, out, in_, _ = (value.reshape(-1, 1, 1, 1) for value in coefficients)
        inner = self.model(
            (in_ * x).to(self.dtype), coefficients.noise.reshape(-1), class_labels, augment_labels
        )
        return skip * x + out * inner.float()


def _as_sigma(sigma: Tensor | float, x: Tensor) -> Tensor:
    return torch.as_tensor(sigma, dtype=torch.float32, device=x.device)


class Denoiser(_Preconditioned):
    """D(x; sigma, c) of EDM: the image in [-1, 1] that is expected behind a noisy one. A teacher is one."""

    def forward(
        self,
        x: Tensor,
        sigma: Tensor | float,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Denoise.

        Args:
            x: [B, C, H, W], images in [-1, 1] plus noise of standard deviation sigma.
            sigma: [B] or a scalar, above 0.
            class_labels: [B, label_dim], one-hot.
            augment_labels: [B, augment_dim], for training with augmentation.

        Returns:
            [B, C, H, W], float32.
        """
        sigma = _as_sigma(sigma, x)
        return self._apply_model(x.float(), denoiser_coefficients(sigma), class_labels, augment_labels)


class OneStepGenerator(_Preconditioned):
    """G(z, c): a denoiser's network evaluated once at sigma = 80, from noise to image (GDD Sec. 3)."""

    def __init__(self, arch: Architecture, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(arch.for_one_step(), dtype)

    @classmethod
    def from_denoiser(cls, denoiser: Denoiser, dtype: torch.dtype | None = None) -> OneStepGenerator:
        """Return a generator with a copy of the denoiser's weights, on its device.

        The augmentation mapping is left behind, because a generator never sees augmented images.
        """
        weights = {
            name: tensor.clone()
            for name, tensor in denoiser.state_dict().items()
            if not name.startswith("model.map_augment.")
        }
        with torch.device("meta"):
            generator = cls(denoiser.arch, denoiser.dtype if dtype is None else dtype)
        generator.load_state_dict(weights, assign=True)
        return generator

    def forward(self, z: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Return images [B, C, H, W] in about [-1, 1], float32, for unit noise z [B, C, H, W]."""
        return self.forward_at(z.float() * SIGMA_MAX, SIGMA_MAX, class_labels)

    def forward_at(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        """Jump from any noise level to the image; the identity at sigma = 0.002.

        Args:
            x: [B, C, H, W], images in [-1, 1] plus noise of standard deviation sigma.
            sigma: [B] or a scalar, at least 0.002.
            class_labels: [B, label_dim], one-hot.

        Returns:
            [B, C, H, W], float32.
        """
        sigma = _as_sigma(sigma, x)
        return self._apply_model(x.float(), boundary_coefficients(sigma), class_labels)
