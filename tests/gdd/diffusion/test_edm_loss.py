"""The denoising loss: its normalisation, its noise levels, and that it teaches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gdd.config.architecture import Architecture
from gdd.diffusion.loss import edm_loss
from gdd.networks.preconditioning import Denoiser, denoiser_coefficients


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def skip_only(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
    """A preconditioned network whose output is zero."""
    return denoiser_coefficients(sigma).skip.reshape(-1, 1, 1, 1) * x


def test_a_network_that_outputs_zero_has_loss_one_at_every_level() -> None:
    images = torch.randn(2000, 1, 4, 4, generator=source()) * 0.5
    for p_mean in (-4.0, 0.0, 4.0):
        loss = edm_loss(skip_only, images, generator=source(1), p_mean=p_mean, p_std=0.1)
        assert loss.shape == (2000,)
        assert loss.mean().item() == pytest.approx(1, abs=0.03)


def test_noise_levels_are_log_normal_and_added_to_the_images() -> None:
    images = torch.full((4000, 1, 2, 2), 0.25)
    seen: list[tuple[Tensor, Tensor]] = []

    def recording(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        seen.append((x, sigma))
        return images

    assert edm_loss(recording, images, generator=source()).abs().max() == 0
    ((x, sigma),) = seen
    assert sigma.log().mean().item() == pytest.approx(-1.2, abs=0.06)
    assert sigma.log().std().item() == pytest.approx(1.2, abs=0.06)
    noise = (x - images) / sigma.reshape(-1, 1, 1, 1)
    assert noise.std().item() == pytest.approx(1, abs=0.02)


def test_the_generator_decides_everything() -> None:
    images = torch.rand(4, 1, 4, 4)
    losses = [edm_loss(skip_only, images, generator=source(seed)) for seed in (0, 0, 1)]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


@pytest.mark.slow
def test_a_small_network_learns_one_image() -> None:
    torch.manual_seed(0)
    arch = Architecture(
        model_type="SongUNet",
        img_resolution=4,
        img_channels=1,
        model_channels=16,
        channel_mult=(1,),
        num_blocks=1,
    )
    denoiser, generator = Denoiser(arch), source()
    images = (torch.randint(0, 2, (1, 1, 4, 4), generator=source()) - 0.5).expand(32, -1, -1, -1)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = edm_loss(denoiser, images, generator=generator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[:3]) / 3 == pytest.approx(1, abs=0.3)
    assert sum(losses[-10:]) / 10 < 0.3
