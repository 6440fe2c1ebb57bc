"""EDM's preconditioning around a U-Net: the denoiser, and the same network as a generator of one step."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from gdd.config.architecture import Architecture
from gdd.networks.unet import TargetLevel, build_unet

SIGMA_DATA = 0.5  # standard deviation of images in [-1, 1]
SIGMA_MAX = 80.0  # where the one-step generator starts
SIGMA_MIN = 0.002  # where its boundary condition holds
RHO = 7.0  # how strongly noise levels gather near the smallest
SIGMA_MIDDLE = 0.8  # where a generator of two steps makes the second (GDD's release)


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


def noise_levels(intervals: int, first: float = SIGMA_MAX, last: float = SIGMA_MIN) -> Tensor:
    """Return the bounds of intervals between two noise levels, [intervals + 1], float64 (EDM Eq. 5)."""
    ramp = torch.arange(intervals + 1, dtype=torch.float64) / max(intervals, 1)
    start, end = first ** (1 / RHO), last ** (1 / RHO)
    return (start + ramp * (end - start)) ** RHO


def as_sigma(sigma: Tensor | float, x: Tensor) -> Tensor:
    """Return sigma in float32 on the device of x; a number stays on the CPU, from where it can multiply x."""
    if isinstance(sigma, Tensor):
        return sigma.to(x.device, torch.float32)
    return torch.tensor(sigma, dtype=torch.float32)


def as_labels(noise: Tensor, x: Tensor) -> Tensor:
    """Return c_noise [B] or [1] on the device of x; one is written there, not copied, which would wait."""
    if noise.device == x.device:
        return noise.reshape(-1)
    return torch.full((1,), noise.item(), device=x.device)


class _Preconditioned(nn.Module):
    """A U-Net between coefficients. Weights and results are float32, the U-Net computes in `dtype`."""

    two_times: ClassVar[bool] = False  # whether the U-Net is also given the noise level to reach

    def __init__(self, arch: Architecture, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.arch = arch
        self.dtype = dtype
        self.model = build_unet(arch, self.two_times)

    def _apply_model(
        self, x: Tensor, coefficients: Coefficients, class_labels: Tensor | None, **labels: Tensor | None
    ) -> Tensor:
        x = x.float()
        skip, out, in_ = (value.view(-1, 1, 1, 1) if value.ndim else value for value in coefficients[:3])
        noise_labels = as_labels(coefficients.noise, x)
        inner = self.model((in_ * x).to(self.dtype), noise_labels, class_labels, **labels)
        return skip * x + out * inner.float()


class Denoiser(_Preconditioned):
    """D(x; sigma, c) of EDM: the image in [-1, 1] that is expected behind a noisy one. A teacher is one."""

    def forward(
        self,
        x: Tensor,
        sigma: Tensor | float,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Denoise x [B, C, H, W], images in [-1, 1] plus noise of standard deviation sigma [B], above 0.

        Labels are [B, label_dim], one-hot, and [B, augment_dim]. The result is float32.
        """
        coefficients = denoiser_coefficients(as_sigma(sigma, x))
        return self._apply_model(x, coefficients, class_labels, augment_labels=augment_labels)


class OneStep(NamedTuple):
    """The noise level at which a generator makes its one step, and the form of its preconditioning."""

    sigma: float = SIGMA_MAX
    coefficients: Literal["boundary", "edm"] = "boundary"


def step_levels(steps: int) -> list[float]:
    """Return the noise levels at which a generator of so many steps evaluates its network.

    80 for one step, 80 and 0.8 for two (GDD's release). More are the starts of the intervals from 80 to
    0.002: at their end there is nothing left to do.
    """
    if steps <= 2:
        return [SIGMA_MAX, SIGMA_MIDDLE][:steps]
    return noise_levels(steps)[:-1].tolist()


class OneStepGenerator(_Preconditioned):
    """G(z, c): a denoiser's network evaluated once at sigma = 80, from noise to image (GDD Sec. 3).

    With `steps` above 1 the image is noised again, to the next of `step_levels`, and the network evaluated
    there, as in multistep consistency sampling (arXiv:2303.01469, Algorithm 1). Each step starts from fresh
    noise, which is part of z, and gradients flow through all of them. With `renoise` False nothing is added
    in between (GDD's release).

    `one_step` differs in generators that others published: where they start, and EDM's coefficients instead
    of those that make the network the identity at 0.002.
    """

    def __init__(self, arch: Architecture, dtype: torch.dtype = torch.float32, *, steps: int = 1) -> None:
        super().__init__(arch.for_one_step(), dtype)
        self.steps = steps
        self.renoise = True
        self.one_step = OneStep()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The shape of the noise z of one image: (steps C, H, W), or (C, H, W) without `renoise`."""
        arch = self.arch
        return (
            (self.steps if self.renoise else 1) * arch.img_channels,
            arch.img_resolution,
            arch.img_resolution,
        )

    @classmethod
    def from_denoiser(cls, denoiser: Denoiser, dtype: torch.dtype = torch.float32, *, steps: int = 1) -> Self:
        """Return a generator with a copy of the denoiser's weights, on its device.

        The augmentation mapping is left behind, because a generator never sees augmented images.
        """
        weights = {
            name: tensor.clone()
            for name, tensor in denoiser.state_dict().items()
            if not name.startswith("model.map_augment.")
        }
        if cls.two_times:
            target = TargetLevel(denoiser.arch).to(next(denoiser.parameters()).device)
            weights |= {f"model.map_target.{name}": tensor for name, tensor in target.state_dict().items()}
        with torch.device("meta"):
            generator = cls(denoiser.arch, dtype, steps=steps)
        generator.load_state_dict(weights, assign=True)
        return generator

    def forward(self, z: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Return images [B, C, H, W] in about [-1, 1], float32, for unit noise z [B, *latent_shape].

        Raises:
            ValueError: z holds the noise of another number of steps.
        """
        if z.shape[1] != self.latent_shape[0]:
            raise ValueError(f"z has {z.shape[1]} channels; {self.steps} steps take {self.latent_shape[0]}.")
        first, *fresh = z.float().chunk(self.steps if self.renoise else 1, dim=1)
        image = self.forward_at(first * self.one_step.sigma, self.one_step.sigma, class_labels)
        for step, sigma in enumerate(step_levels(self.steps)[1:]):
            if self.renoise:
                image = image + math.sqrt(sigma**2 - SIGMA_MIN**2) * fresh[step]
            image = self.forward_at(image, sigma, class_labels)
        return image

    def forward_at(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        """Jump from noise levels of at least 0.002 to the image; the identity at 0.002."""
        form = boundary_coefficients if self.one_step.coefficients == "boundary" else denoiser_coefficients
        return self._apply_model(x, form(as_sigma(sigma, x)), class_labels)


class TwoTimeGenerator(OneStepGenerator):
    """g(x, t, s): the image behind x as it is seen by who goes from noise level t to s in one step.

    The step itself is `jump`. As a one-step generator it goes from 80 to 0.002. Sources: arXiv:2310.02279
    (CTM), Eq. 9; the same jump is a DDIM step (arXiv:2010.02502) with the image g.

    One made from a denoiser computes at first, whatever the target, what `OneStepGenerator` would. The first
    layer of its second embedding is drawn from PyTorch's global random state.
    """

    two_times = True

    def forward_at(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        """Return the image for the target 0.002."""
        return self.predict(x, sigma, SIGMA_MIN, class_labels)

    def predict(
        self, x: Tensor, sigma: Tensor | float, target: Tensor | float, class_labels: Tensor | None = None
    ) -> Tensor:
        """Return the image g(x, sigma, target), [B, C, H, W] in float32; it is x at sigma = 0.002.

        `target` is the level to reach from sigma, from 0.002 to sigma, [B] or one.
        """
        target_labels = as_labels(denoiser_coefficients(as_sigma(target, x)).noise, x)
        coefficients = boundary_coefficients(as_sigma(sigma, x))
        return self._apply_model(x, coefficients, class_labels, target_labels=target_labels)

    def jump(
        self, x: Tensor, sigma: Tensor, target: Tensor | float, class_labels: Tensor | None = None
    ) -> Tensor:
        """Go from the noise levels sigma [B] to target in one step; the identity where they are equal.

        Returns (target x + (sigma - target) g) / sigma, [B, C, H, W] in the dtype of x.
        """
        kept = (torch.as_tensor(target, device=x.device) / sigma).to(x.dtype).reshape(-1, 1, 1, 1)
        return kept * x + (1 - kept) * self.predict(x, sigma, target, class_labels)
