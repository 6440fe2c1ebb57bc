"""The sampler against the reference, and against an ODE with a known solution."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gdd.config.architecture import Architecture
from gdd.config.recipe import Sampler
from gdd.config.record import parse
from gdd.diffusion.sampler import heun_sample, heun_step
from gdd.networks.preconditioning import Denoiser, noise_levels

DATA = 0.7  # standard deviation of the Gaussian data below


def gaussian_denoiser(x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
    """The exact posterior mean for data ~ N(0, DATA^2): the ODE then is x(s) / sqrt(DATA^2 + s^2) = const."""
    variance = sigma.reshape(-1, 1, 1, 1) ** 2
    return x * DATA**2 / (DATA**2 + variance)


def exact(x: Tensor, start: float, end: float) -> Tensor:
    return x * math.sqrt((DATA**2 + end**2) / (DATA**2 + start**2))


@pytest.mark.parametrize("name", ["ddpmpp-cond-16", "ncsnpp-uncond-16", "adm-cond-16"])
def test_reference_samples(golden: Path, name: str) -> None:
    with np.load(golden / "networks" / f"{name}.npz") as file:
        data = {key: file[key] for key in file.files}
    denoiser = Denoiser(parse(Architecture, json.loads(str(data["arch"])), name)).eval()
    denoiser.load_state_dict(
        {key[6:]: torch.from_numpy(value) for key, value in data.items() if key.startswith("state/")}
    )
    z, labels = torch.from_numpy(data["x"]), torch.from_numpy(data["labels"])
    images = heun_sample(denoiser, z, Sampler(steps=6), labels)
    expected = torch.from_numpy(data["heun6_output"])
    torch.testing.assert_close(images, expected, atol=2e-5, rtol=0, check_dtype=False)


@pytest.mark.parametrize("intervals", [1, 2, 17, 255])
def test_levels_are_those_of_edm_in_either_direction(intervals: int) -> None:
    falling, rising = noise_levels(intervals), noise_levels(intervals, 0.002, 80.0)
    high, low = 80 ** (1 / 7), 0.002 ** (1 / 7)
    expected = [(high + i / intervals * (low - high)) ** 7 for i in range(intervals + 1)]
    assert falling.tolist() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(rising.flip(0), falling)
    assert falling.dtype == torch.float64


@pytest.mark.parametrize(("steps", "evaluations"), [(1, 1), (2, 3), (18, 35), (40, 79), (256, 511)])
def test_evaluations_are_counted(steps: int, evaluations: int) -> None:
    seen: list[Tensor] = []

    def counting(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        assert x.dtype == sigma.dtype == torch.float32
        seen.append(sigma)
        return gaussian_denoiser(x, sigma)

    heun_sample(counting, torch.randn(2, 1, 2, 2), Sampler(steps=steps))
    assert len(seen) == Sampler(steps=steps).evaluations == evaluations
    assert torch.cat(seen).min() > 0


def test_one_step_is_one_denoising_from_the_highest_level() -> None:
    z = torch.randn(3, 1, 2, 2)
    images = heun_sample(gaussian_denoiser, z, Sampler(steps=1))
    torch.testing.assert_close(images, gaussian_denoiser(80 * z, torch.tensor(80.0)))


def test_many_steps_solve_the_ode_to_second_order() -> None:
    z = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    solution = exact(80 * z.double(), 80, 0)

    def error(steps: int) -> float:
        return float((heun_sample(gaussian_denoiser, z, Sampler(steps=steps)) - solution).abs().max())

    assert error(8) > 3 * error(16) > 9 * error(32)
    assert error(400) < 1e-3


def test_a_step_is_heuns_and_each_image_may_take_its_own() -> None:
    x = torch.randn(3, 1, 2, 2)
    starts, ends = torch.tensor([5.0, 1.0, 0.3]), torch.tensor([2.0, 1.5, 0.0])
    together = heun_step(gaussian_denoiser, x, starts, ends)
    for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        slope = x[i] * start / (DATA**2 + start**2)  # (x - D(x; sigma)) / sigma
        expected = x[i] + (end - start) * slope
        if end > 0:
            expected = x[i] + (end - start) * (slope + expected * end / (DATA**2 + end**2)) / 2
        torch.testing.assert_close(together[i], expected)
        torch.testing.assert_close(heun_step(gaussian_denoiser, x[i : i + 1], start, end)[0], expected)


def test_steps_pass_gradients_and_samples_do_not() -> None:
    x = torch.randn(2, 1, 2, 2, requires_grad=True)
    heun_step(gaussian_denoiser, x, 1.0, torch.tensor([0.5, 0.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert not heun_sample(gaussian_denoiser, x, Sampler(steps=2)).requires_grad


def test_churn_outside_its_levels_is_none_and_without_noise_an_error() -> None:
    z = torch.randn(2, 1, 4, 4)
    outside = Sampler(steps=5, churn=40.0, churn_min=100.0, churn_max=200.0)
    plain = heun_sample(gaussian_denoiser, z, Sampler(steps=5))
    assert torch.equal(heun_sample(gaussian_denoiser, z, outside, noise=torch.zeros_like), plain)
    with pytest.raises(ValueError, match="pass `noise`"):
        heun_sample(gaussian_denoiser, z, outside)


def test_churn_raises_the_level_and_the_variance_together() -> None:
    """Of two levels, 80 and 0.002, the first is raised by the largest allowed factor, sqrt(2)."""
    seen: list[float] = []

    def recording(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        seen.append(float(sigma))
        return gaussian_denoiser(x, sigma)

    noise = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    z = torch.ones(1, 1, 2, 2)
    sampler = Sampler(steps=2, churn=40.0, churn_min=1.0, churn_noise=1.5)
    images = heun_sample(recording, z, sampler, noise=lambda x: noise)
    assert seen == pytest.approx([80 * math.sqrt(2), 0.002, 0.002])
    raised = 80 * z.double() + 80 * 1.5 * noise  # sqrt(2 - 1) * 80 of fresh noise
    x = heun_step(gaussian_denoiser, raised, 80 * math.sqrt(2), 0.002)
    x = heun_step(gaussian_denoiser, x, 0.002, 0.0)
    torch.testing.assert_close(images, x.float())


def test_churn_keeps_the_distribution() -> None:
    z = torch.randn(4000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    source = torch.Generator().manual_seed(1)

    def noise(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=source, dtype=x.dtype)

    images = heun_sample(gaussian_denoiser, z, Sampler(steps=40, churn=20.0), noise=noise)
    assert images.std().item() == pytest.approx(DATA, rel=0.04)
