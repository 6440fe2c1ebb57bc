"""The teacher's own encoder as a feature network of the discriminator."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor

from gdd.adversary.feature_network import FeatureNetwork
from gdd.networks.preconditioning import Denoiser, denoiser_coefficients
from gdd.networks.unet import UNet

SIGMA = 0.1  # the images are clean; the network is told of a little noise, the least it was much trained on


class TeacherEncoder(FeatureNetwork):
    """The last features of each resolution of a teacher's encoder, fine to coarse.

    Class-conditional teachers are asked without a class (a zero vector).
    """

    def __init__(self, teacher: Denoiser) -> None:
        arch = teacher.arch
        super().__init__(
            copy.deepcopy(teacher.model),
            arch.widths,
            img_channels=arch.img_channels,
            resolution=arch.img_resolution,
        )
        self.sigma = torch.tensor(SIGMA)
        self.label_dim = arch.label_dim

    def taps(self, prepared: Tensor) -> list[Tensor]:
        """Return features `[B, C_i, H_i, W_i]` of the encoder, one a resolution."""
        coefficients = denoiser_coefficients(self.sigma.to(prepared.device))
        labels = prepared.new_zeros(len(prepared), self.label_dim) if self.label_dim else None
        unet = cast(UNet, self.frozen)
        return unet.encoder_features(coefficients.in_ * prepared, coefficients.noise.reshape(1), labels)
