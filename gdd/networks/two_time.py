"""A student with two times: told the noise level it starts from and the one it is to reach."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from gdd.networks.preconditioning import (
    SIGMA_MIN,
    Denoiser,
    OneStepGenerator,
    as_sigma,
    boundary_coefficients,
    denoiser_coefficients,
)
from gdd.networks.unet import TargetLevel


class TwoTimeGenerator(OneStepGenerator):
    """g(x, t, s): the image behind x as it is seen by who goes from noise level t to s in one step.

    The step itself is `jump`. As a one-step generator it goes from 80 to 0.002. Sources: arXiv:2310.02279
    (CTM), Eq. 9; the same jump is a DDIM step (arXiv:2010.02502) with the image g.
    """

    two_times = True

    @classmethod
    def from_denoiser(cls, denoiser: Denoiser, dtype: torch.dtype | None = None, *, steps: int = 1) -> Self:
        """Return a generator that computes, whatever the target, what `OneStepGenerator` would.

        The first layer of the second embedding is drawn from PyTorch's global random state.
        """
        one_time = OneStepGenerator.from_denoiser(denoiser, dtype)
        target = TargetLevel(one_time.arch).to(next(one_time.parameters()).device)
        weights = one_time.state_dict()
        weights |= {f"model.map_target.{name}": tensor for name, tensor in target.state_dict().items()}
        with torch.device("meta"):
            generator = cls(denoiser.arch, one_time.dtype, steps=steps)
        generator.load_state_dict(weights, assign=True)
        return generator

    def forward_at(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        """Return the image for the target 0.002."""
        return self.predict(x, sigma, SIGMA_MIN, class_labels)

    def predict(
        self, x: Tensor, sigma: Tensor | float, target: Tensor | float, class_labels: Tensor | None = None
    ) -> Tensor:
        """Return the image g(x, sigma, target), [B, C, H, W] in float32; it is x at sigma = 0.002.

        `target` is the level to reach from sigma, from 0.002 to sigma, [B] or one.
        """
        level, reached = as_sigma(sigma, x), as_sigma(target, x)
        target_labels = denoiser_coefficients(reached).noise.reshape(-1)
        coefficients = boundary_coefficients(level)
        return self._apply_model(x.float(), coefficients, class_labels, target_labels=target_labels)

    def jump(
        self, x: Tensor, sigma: Tensor, target: Tensor | float, class_labels: Tensor | None = None
    ) -> Tensor:
        """Go from the noise levels sigma [B] to target in one step; the identity where they are equal.

        Returns (target x + (sigma - target) g) / sigma, [B, C, H, W] in the dtype of x.
        """
        kept = (torch.as_tensor(target, device=x.device) / sigma).to(x.dtype).reshape(-1, 1, 1, 1)
        return kept * x + (1 - kept) * self.predict(x, sigma, target, class_labels)
