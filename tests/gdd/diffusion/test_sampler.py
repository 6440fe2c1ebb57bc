"""The sampler against the reference, against an ODE with a known solution, and its edges."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gdd.config.architecture import Architecture
from gdd.config.record import parse
from gdd.diffusion.sampler import Churn, function_evaluations, heun_sample, heun_step, sigma_schedule
from gdd.networks.preconditioning import Denoiser

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
    images = heun_sample(denoiser, torch.from_numpy(data["x"]), torch.from_numpy(data["labels"]), steps=6)
    expected = torch.from_numpy(data["heun6_output"])
    torch.testing.assert_close(images, expected, atol=2e-5, rtol=0, check_dtype=False)


@settings(deadline=None)
@given(st.integers(1, 60), st.floats(1, 10))
def test_schedule_falls_from_the_highest_level_to_zero(steps: int, rho: float) -> None:
    levels = sigma_schedule(steps, rho=rho)
    assert levels.dtype == torch.float64
    assert len(levels) == steps + 1
    assert (levels.diff() < 0).all()
    assert levels[0].item() == pytest.approx(80)
    assert levels[-1] == 0
    if steps > 1:
        assert levels[-2].item() == pytest.approx(0.002)


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 step"):
        sigma_schedule(0)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_evaluations_are_counted(steps: int) -> None:
    seen: list[Tensor] = []

    def counting(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        assert x.dtype == sigma.dtype == torch.float32
        seen.append(sigma)
        return gaussian_denoiser(x, sigma)

    heun_sample(counting, torch.randn(2, 1, 2, 2), steps=steps)
    assert len(seen) == function_evaluations(steps) == 2 * steps - 1
    assert torch.cat(seen).min() > 0


def test_published_evaluation_counts() -> None:
    assert [function_evaluations(steps) for steps in (18, 40, 256)] == [35, 79, 511]


def test_one_step_is_one_denoising_from_the_highest_level() -> None:
    z = torch.randn(3, 1, 2, 2)
    torch.testing.assert_close(
        heun_sample(gaussian_denoiser, z, steps=1), gaussian_denoiser(80 * z, torch.tensor(80.0))
    )


def test_many_steps_solve_the_ode_to_second_order() -> None:
    z = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    solution = exact(80 * z.double(), 80, 0)
    errors = [float((heun_sample(gaussian_denoiser, z, steps=n) - solution).abs().max()) for n in (8, 16, 32)]
    assert errors[0] / errors[1] > 3
    assert errors[1] / errors[2] > 3
    assert float((heun_sample(gaussian_denoiser, z, steps=400) - solution).abs().max()) < 1e-3


@settings(deadline=None)
@given(st.floats(0.1, 80), st.floats(0.1, 80))
def test_a_first_order_step_follows_the_slope_at_its_start(start: float, end: float) -> None:
    x = torch.linspace(-2, 2, 4, dtype=torch.float64).reshape(4, 1, 1, 1)
    slope = x * start / (DATA**2 + start**2)
    step = heun_step(gaussian_denoiser, x, start, end, order=1)
    torch.testing.assert_close(step, x + (end - start) * slope, atol=2e-4, rtol=1e-5)


def test_a_second_order_step_is_closer_to_the_solution() -> None:
    x = torch.randn(4, 1, 2, 2, dtype=torch.float64)
    goal = exact(x, 1.0, 0.8)
    first = (heun_step(gaussian_denoiser, x, 1.0, 0.8, order=1) - goal).abs().max()
    second = (heun_step(gaussian_denoiser, x, 1.0, 0.8) - goal).abs().max()
    assert second < first / 5


def test_each_image_may_take_its_own_step() -> None:
    x = torch.randn(3, 1, 2, 2)
    starts, ends = torch.tensor([5.0, 1.0, 0.3]), torch.tensor([2.0, 1.5, 0.0])
    together = heun_step(gaussian_denoiser, x, starts, ends)
    for i in range(3):
        alone = heun_step(gaussian_denoiser, x[i : i + 1], float(starts[i]), float(ends[i]))
        torch.testing.assert_close(together[i : i + 1], alone)
    with pytest.raises(ValueError, match="1 or 2, not 3"):
        heun_step(gaussian_denoiser, x, 1.0, 0.5, order=3)


def test_steps_pass_gradients_and_samples_do_not() -> None:
    x = torch.randn(2, 1, 2, 2, requires_grad=True)
    assert heun_step(gaussian_denoiser, x, 1.0, torch.tensor([0.5, 0.0])).requires_grad
    heun_step(gaussian_denoiser, x, 1.0, torch.tensor([0.5, 0.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert not heun_sample(gaussian_denoiser, x, steps=2).requires_grad


def test_no_churn_is_the_deterministic_sampler() -> None:
    z = torch.randn(2, 1, 4, 4)
    plain = heun_sample(gaussian_denoiser, z, steps=5)
    assert torch.equal(heun_sample(gaussian_denoiser, z, steps=5, churn=Churn(0.0)), plain)
    outside = Churn(40.0, s_min=100.0, s_max=200.0)
    assert torch.equal(
        heun_sample(gaussian_denoiser, z, steps=5, churn=outside, noise=torch.zeros_like), plain
    )


def test_churn_needs_noise_and_repeats_with_its_generator() -> None:
    z, churn = torch.randn(2, 1, 4, 4), Churn(40.0, 0.05, 50.0, 1.003)
    with pytest.raises(ValueError, match="pass `noise`"):
        heun_sample(gaussian_denoiser, z, steps=8, churn=churn)
    runs = [
        heun_sample(gaussian_denoiser, z, steps=8, churn=churn, noise=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_churn_raises_the_level_and_the_variance_together() -> None:
    """Of two levels, 80 and 0.002, the first is raised by the largest allowed factor, sqrt(2)."""
    seen: list[float] = []

    def recording(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        seen.append(float(sigma))
        return gaussian_denoiser(x, sigma)

    noise = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    z = torch.ones(1, 1, 2, 2)
    images = heun_sample(
        recording, z, steps=2, churn=Churn(40.0, s_min=1.0, s_noise=1.5), noise=lambda x: noise
    )
    assert seen == pytest.approx([80 * math.sqrt(2), 0.002, 0.002])
    raised = 80 * z.double() + 80 * 1.5 * noise  # sqrt(2 - 1) * 80 of fresh noise
    x = heun_step(gaussian_denoiser, raised, 80 * math.sqrt(2), sigma_schedule(2)[1].item())
    x = heun_step(gaussian_denoiser, x, sigma_schedule(2)[1].item(), 0.0)
    torch.testing.assert_close(images, x.float())


def test_churn_keeps_the_distribution() -> None:
    z = torch.randn(4000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    noise = torch.Generator().manual_seed(1)
    images = heun_sample(gaussian_denoiser, z, steps=40, churn=Churn(20.0), noise=noise)
    assert images.std().item() == pytest.approx(DATA, rel=0.04)
