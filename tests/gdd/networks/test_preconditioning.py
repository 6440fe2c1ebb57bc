"""Preconditioning: agreement with the reference networks, its limits, and the generators of one or more steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gdd.config.architecture import Architecture
from gdd.networks.preconditioning import (
    Denoiser,
    OneStepGenerator,
    TwoTimeGenerator,
    boundary_coefficients,
    denoiser_coefficients,
    step_levels,
)

COMMON = {"img_resolution": 8, "img_channels": 1, "label_dim": 3, "channel_mult": (1, 1), "num_blocks": 1}
NCSNPP = {"embedding_type": "fourier", "channel_mult_noise": 2, "encoder_type": "residual"}
ARCHITECTURES = {
    "ncsn": Architecture(
        model_type="SongUNet", model_channels=16, augment_dim=2, dropout=0.3, **NCSNPP, **COMMON
    ),
    "ddpm": Architecture(
        model_type="SongUNet", model_channels=16, augment_dim=2, attn_resolutions=(4,), **COMMON
    ),
    "adm": Architecture(model_type="DhariwalUNet", model_channels=64, **COMMON),
}
LABELS = torch.eye(3)
LEVELS = torch.tensor([0.5, 7.0, 80.0])


@pytest.fixture(params=ARCHITECTURES)
def teacher(request: pytest.FixtureRequest) -> Denoiser:
    torch.manual_seed(0)
    denoiser = Denoiser(ARCHITECTURES[request.param])
    with torch.no_grad():
        for parameter in denoiser.parameters():  # fresh networks give almost nothing
            parameter += 0.1 * torch.randn_like(parameter)
    return denoiser.eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 1, 8, 8)


@settings(deadline=None)
@given(st.floats(1e-3, 200))
def test_coefficients_keep_unit_variance(sigma: float) -> None:
    """EDM's conditions (its Appendix B.6): unit variance into the network, and of the target it learns."""
    skip, out, in_, noise = denoiser_coefficients(torch.tensor(sigma, dtype=torch.float64))
    assert float(in_**2) * (sigma**2 + 0.25) == pytest.approx(1)
    assert float(((1 - skip) ** 2 * 0.25 + skip**2 * sigma**2) / out**2) == pytest.approx(1)
    assert float(noise) == pytest.approx(np.log(sigma) / 4)
    boundary = boundary_coefficients(
        torch.tensor(sigma, dtype=torch.float64)
    )  # differs by the boundary alone
    assert (boundary.in_, boundary.noise) == (in_, noise)
    assert float(boundary.out) == pytest.approx(float(out) * (sigma - 0.002) / sigma, abs=1e-12)


def test_a_denoiser_returns_clean_images_at_little_noise(teacher: Denoiser, x: Tensor) -> None:
    assert (teacher(x, 1e-6, LABELS) - x).abs().max() < 1e-4


def test_sigma_may_be_a_number_or_one_an_image(teacher: Denoiser, x: Tensor) -> None:
    whole = teacher(x, LEVELS, LABELS)
    torch.testing.assert_close(whole[1:2], teacher(x[1:2], 7.0, LABELS[1:2]))
    torch.testing.assert_close(whole[:1], teacher(x[:1], torch.tensor(0.5), LABELS[:1]))


def test_one_step_is_the_jump_from_the_highest_noise(teacher: Denoiser, x: Tensor) -> None:
    generator = OneStepGenerator.from_denoiser(teacher)
    assert torch.equal(generator.forward_at(x, 0.002, LABELS), x)  # the identity at its boundary
    images = generator(x, LABELS)
    torch.testing.assert_close(images, generator.forward_at(80 * x, torch.full((3,), 80.0), LABELS))
    # Close to the denoiser, whose coefficients differ by 0.002 / 80 there, and not equal to it.
    assert 0 < (images - teacher(80 * x, 80.0, LABELS)).abs().max() < 1e-3


def test_a_generator_has_no_augmentation_no_dropout_and_its_own_weights(teacher: Denoiser, x: Tensor) -> None:
    generator = OneStepGenerator.from_denoiser(teacher)
    left = set(teacher.state_dict()) - set(generator.state_dict())
    assert left == ({"model.map_augment.weight"} if teacher.arch.augment_dim else set())
    assert (generator.arch.augment_dim, generator.arch.dropout) == (0, 0.0)
    assert all(parameter.requires_grad for parameter in generator.parameters())
    before = generator.train()(x, LABELS)
    for parameter in teacher.parameters():
        parameter.data.zero_()
    assert torch.equal(generator(x, LABELS), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_are_float32_whatever_the_compute_dtype(dtype: torch.dtype, x: Tensor) -> None:
    denoiser = Denoiser(ARCHITECTURES["ddpm"], dtype)
    assert denoiser(x.double(), LEVELS, LABELS).dtype == torch.float32
    generator = OneStepGenerator.from_denoiser(denoiser, dtype)
    assert (generator.dtype, generator(x.double(), LABELS).dtype) == (dtype, torch.float32)


# Several steps


def test_levels() -> None:
    assert step_levels(1) == [80]
    assert step_levels(2) == [80, 0.8]
    # EDM Eq. 5 with five points, without the last: half-way in the seventh root is 2.515.
    assert step_levels(4) == pytest.approx([80, 17.53, 2.515, 0.1698], rel=1e-3)


@pytest.mark.parametrize("kind", [OneStepGenerator, TwoTimeGenerator])
@pytest.mark.parametrize("steps", [2, 3])
def test_every_step_starts_from_the_image_noised_again(
    teacher: Denoiser, kind: type[OneStepGenerator], steps: int
) -> None:
    generator = kind.from_denoiser(teacher, steps=steps)
    assert generator.latent_shape == (steps, 8, 8)
    z = torch.randn(3, steps, 8, 8)
    image = generator.forward_at(80 * z[:, :1], 80.0, LABELS)
    for step, sigma in enumerate(step_levels(steps)[1:], start=1):
        added = (sigma**2 - 0.002**2) ** 0.5 * z[:, step : step + 1]
        image = generator.forward_at(image + added, sigma, LABELS)
    torch.testing.assert_close(generator(z, LABELS), image)
    generator(z, LABELS).square().sum().backward()
    assert generator.model.map_layer0.weight.grad is not None
    with pytest.raises(ValueError, match=f"z has 1 channels; {steps} steps take {steps}"):
        generator(z[:, :1], LABELS)


def test_two_steps_without_noise_between_them(teacher: Denoiser) -> None:
    generator = OneStepGenerator.from_denoiser(teacher, steps=2)
    generator.renoise = False
    assert generator.latent_shape == (1, 8, 8)
    z = torch.randn(3, 1, 8, 8)
    expected = generator.forward_at(generator.forward_at(80 * z, 80.0, LABELS), 0.8, LABELS)
    assert torch.equal(generator(z, LABELS), expected)


# Two times


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_two_time_student_starts_as_the_one_time_one(
    teacher: Denoiser, x: Tensor, dtype: torch.dtype
) -> None:
    one, two = OneStepGenerator.from_denoiser(teacher, dtype), TwoTimeGenerator.from_denoiser(teacher, dtype)
    assert torch.equal(two(x, LABELS), one(x, LABELS))
    noisy = LEVELS.reshape(-1, 1, 1, 1) * x
    expected = one.forward_at(noisy, LEVELS, LABELS)
    for target in (0.002, 0.4, torch.tensor([0.1, 3.0, 80.0])):
        assert torch.equal(two.predict(noisy, LEVELS, target, LABELS), expected)


def test_the_target_comes_to_matter(teacher: Denoiser, x: Tensor) -> None:
    student = TwoTimeGenerator.from_denoiser(teacher)
    student.predict(x, LEVELS, 0.1, LABELS).square().sum().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert student.model.map_target is not None
    with torch.no_grad():
        student.model.map_target.layer1.weight += torch.randn_like(student.model.map_target.layer1.weight)
    near, far = (student.predict(x, LEVELS, target, LABELS) for target in (0.4, 0.002))
    assert (near - far).abs().amax(dim=(1, 2, 3)).min() > 1e-4
    # The one-step image is that of the target 0.002.
    assert torch.equal(student.forward_at(x, LEVELS, LABELS), far)


def test_a_jump_is_an_euler_step_towards_the_prediction(teacher: Denoiser, x: Tensor) -> None:
    student = TwoTimeGenerator.from_denoiser(teacher)
    target = torch.tensor([0.002, 7.0, 9.0])
    slope = (x - student.predict(x, LEVELS, target, LABELS)) / LEVELS.reshape(-1, 1, 1, 1)
    jumped = student.jump(x, LEVELS, target, LABELS)
    torch.testing.assert_close(jumped, x + (target - LEVELS).reshape(-1, 1, 1, 1) * slope)
    assert torch.equal(jumped[1], x[1])  # nowhere to go
    assert student.jump(x.double(), LEVELS.double(), target.double(), LABELS).dtype == torch.float64


def test_the_second_embedding_is_drawn_from_the_seed(teacher: Denoiser) -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(TwoTimeGenerator.from_denoiser(teacher).model.map_target.layer0.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
