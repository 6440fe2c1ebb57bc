"""Generators of several steps: levels, fresh noise before each, and their files."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from gdd.config.architecture import Architecture
from gdd.networks.checkpoint import load_generator, save_network
from gdd.networks.preconditioning import Denoiser, OneStepGenerator, step_levels
from gdd.networks.two_time import TwoTimeGenerator
from gdd.networks.weights import load_weights

pytestmark = pytest.mark.slow

ARCH = Architecture(
    model_type="SongUNet",
    img_resolution=8,
    img_channels=3,
    model_channels=8,
    channel_mult=(1,),
    num_blocks=1,
    attn_resolutions=(),
)


@pytest.fixture
def teacher() -> Denoiser:
    torch.manual_seed(0)
    denoiser = Denoiser(ARCH)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return denoiser


def test_levels() -> None:
    assert step_levels(1) == [80]
    assert step_levels(2) == [80, 0.8]
    levels = step_levels(4)
    # EDM Eq. 5 with five points, without the last: half-way in the seventh root is 2.515.
    assert levels == pytest.approx([80, 17.53, 2.515, 0.1698], rel=1e-3)


@pytest.mark.parametrize("kind", [OneStepGenerator, TwoTimeGenerator])
@pytest.mark.parametrize("steps", [2, 3])
def test_every_step_starts_from_the_image_noised_again(
    teacher: Denoiser, kind: type[OneStepGenerator], steps: int
) -> None:
    generator = kind.from_denoiser(teacher, steps=steps)
    assert generator.latent_shape == (3 * steps, 8, 8)
    z = torch.randn(2, *generator.latent_shape)
    image = generator.forward_at(80 * z[:, :3], 80.0)
    for step, sigma in enumerate(step_levels(steps)[1:], start=1):
        added = (sigma**2 - 0.002**2) ** 0.5 * z[:, 3 * step : 3 * step + 3]
        image = generator.forward_at(image + added, sigma)
    torch.testing.assert_close(generator(z), image)
    generator(z).square().sum().backward()
    assert generator.model.map_layer0.weight.grad is not None


def test_one_step_takes_the_noise_of_one(teacher: Denoiser) -> None:
    assert OneStepGenerator.from_denoiser(teacher).latent_shape == (3, 8, 8)
    with pytest.raises(ValueError, match="z has 3 channels; 2 steps take 6"):
        OneStepGenerator.from_denoiser(teacher, steps=2)(torch.randn(1, 3, 8, 8))


def test_the_number_of_steps_goes_where_the_weights_go(teacher: Denoiser, tmp_path: Path) -> None:
    generator = TwoTimeGenerator.from_denoiser(teacher, steps=3)
    assert copy.deepcopy(generator).steps == 3
    save_network(tmp_path / "student.safetensors", generator)
    assert load_weights(tmp_path / "student.safetensors")[1]["steps"] == 3
    z = torch.randn(2, 9, 8, 8)
    torch.testing.assert_close(load_generator(tmp_path / "student.safetensors")(z), generator(z))
