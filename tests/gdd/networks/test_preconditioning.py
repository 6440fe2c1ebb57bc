"""Preconditioning: agreement with the reference networks, its limits, and the one-step form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gdd.config.architecture import Architecture
from gdd.config.record import parse
from gdd.networks.preconditioning import (
    Denoiser,
    OneStepGenerator,
    boundary_coefficients,
    denoiser_coefficients,
)

ARCH = Architecture(
    model_type="SongUNet",
    img_resolution=8,
    img_channels=1,
    label_dim=2,
    augment_dim=9,
    model_channels=16,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(4,),
    dropout=0.3,
)


def random_denoiser(arch: Architecture = ARCH, dtype: torch.dtype = torch.float32) -> Denoiser:
    torch.manual_seed(0)
    denoiser = Denoiser(arch, dtype)
    for parameter in denoiser.parameters():
        parameter.data.normal_(std=0.1)
    return denoiser.eval()


@pytest.mark.parametrize("name", ["ddpmpp-cond-16", "ncsnpp-uncond-16", "adm-cond-16"])
def test_reference_networks(golden: Path, name: str) -> None:
    with np.load(golden / "networks" / f"{name}.npz") as file:
        data = {key: file[key] for key in file.files}
    tensors: dict[str, Tensor] = {
        key: torch.from_numpy(value) for key, value in data.items() if key != "arch"
    }
    denoiser = Denoiser(parse(Architecture, json.loads(str(data["arch"])), name)).eval()
    denoiser.load_state_dict({key[6:]: value for key, value in tensors.items() if key.startswith("state/")})
    with torch.no_grad():
        denoised = denoiser(tensors["edm_input"], tensors["sigma"], tensors["labels"])
        generated = OneStepGenerator.from_denoiser(denoiser)(tensors["x"], tensors["labels"])
    torch.testing.assert_close(denoised, tensors["edm_output"], atol=2e-6, rtol=0)
    torch.testing.assert_close(generated, tensors["one_step_output"], atol=2e-6, rtol=0)


@settings(deadline=None)
@given(st.floats(1e-3, 200))
def test_coefficients_keep_unit_variance(sigma: float) -> None:
    """EDM's conditions (its Appendix B.6): unit variance into the network, and of the target it learns."""
    skip, out, in_, noise = denoiser_coefficients(torch.tensor(sigma, dtype=torch.float64))
    variance = sigma**2 + 0.25
    assert float(in_**2) * variance == pytest.approx(1)
    target_variance = ((1 - skip) ** 2 * 0.25 + skip**2 * sigma**2) / out**2
    assert float(target_variance) == pytest.approx(1)
    assert float(noise) == pytest.approx(np.log(sigma) / 4)


@settings(deadline=None)
@given(st.floats(0.002, 200))
def test_the_two_forms_differ_by_the_boundary_alone(sigma: float) -> None:
    at = torch.tensor(sigma, dtype=torch.float64)
    edm, boundary = denoiser_coefficients(at), boundary_coefficients(at)
    assert boundary.in_ == edm.in_
    assert boundary.noise == edm.noise
    assert boundary.out <= edm.out
    assert boundary.skip >= edm.skip
    assert float(boundary.out) == pytest.approx(float(edm.out) * (sigma - 0.002) / sigma, abs=1e-12)


def test_a_denoiser_returns_clean_images_at_little_noise() -> None:
    x = torch.randn(2, 1, 8, 8)
    difference = (random_denoiser()(x, 1e-6, torch.eye(2)) - x).abs().max()
    assert difference < 1e-4


def test_sigma_may_be_a_number_or_one_an_image() -> None:
    denoiser, x = random_denoiser(), torch.randn(2, 1, 8, 8)
    whole = denoiser(x, torch.tensor([0.5, 3.0]), torch.eye(2))
    torch.testing.assert_close(whole[1:], denoiser(x[1:], 3.0, torch.eye(2)[1:]))
    torch.testing.assert_close(whole[:1], denoiser(x[:1], torch.tensor(0.5), torch.eye(2)[:1]))


def test_a_generator_is_the_identity_at_its_boundary() -> None:
    generator, x = OneStepGenerator.from_denoiser(random_denoiser()), torch.randn(2, 1, 8, 8)
    assert torch.equal(generator.forward_at(x, 0.002, torch.eye(2)), x)


def test_one_step_is_the_jump_from_the_highest_noise() -> None:
    denoiser, z, labels = random_denoiser(), torch.randn(2, 1, 8, 8), torch.eye(2)
    generator = OneStepGenerator.from_denoiser(denoiser)
    images = generator(z, labels)
    torch.testing.assert_close(images, generator.forward_at(80 * z, torch.full((2,), 80.0), labels))
    # Close to the denoiser, whose coefficients differ by 0.002 / 80 there, and not equal to it.
    difference = (images - denoiser(80 * z, 80.0, labels)).abs().max()
    assert 0 < difference < 1e-3


def test_a_generator_has_no_augmentation_no_dropout_and_its_own_weights() -> None:
    denoiser = random_denoiser()
    generator = OneStepGenerator.from_denoiser(denoiser)
    left = set(denoiser.state_dict()) - set(generator.state_dict())
    assert left == {"model.map_augment.weight"}
    assert (generator.arch.augment_dim, generator.arch.dropout) == (0, 0.0)
    assert all(parameter.requires_grad for parameter in generator.parameters())

    z, labels = torch.randn(2, 1, 8, 8), torch.eye(2)
    before = generator.train()(z, labels)
    for parameter in denoiser.parameters():
        parameter.data.zero_()
    assert torch.equal(generator(z, labels), before)


@settings(deadline=None, max_examples=5)
@given(st.sampled_from([torch.float32, torch.bfloat16]), st.floats(0.01, 80))
def test_results_are_float32_whatever_the_compute_dtype(dtype: torch.dtype, sigma: float) -> None:
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    denoiser = random_denoiser(dtype=dtype)
    assert denoiser(x, sigma, torch.eye(2)).dtype == torch.float32
    assert OneStepGenerator.from_denoiser(denoiser)(x, torch.eye(2)).dtype == torch.float32
    assert OneStepGenerator.from_denoiser(denoiser).dtype == dtype
