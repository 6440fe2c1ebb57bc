"""The sampler against the reference and an ODE with a known solution; a teacher's samples, and pairs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gdd.config.architecture import Architecture
from gdd.config.recipe import Sampler
from gdd.config.record import parse
from gdd.diffusion.sampler import heun_sample, heun_step, load_pairs, make_pairs, sample_range
from gdd.errors import UserError
from gdd.networks.checkpoint import load_denoiser
from gdd.networks.preconditioning import Denoiser, noise_levels
from gdd.randomness import labels, latents, noise

DATA = 0.7  # standard deviation of the Gaussian data below
STOCHASTIC = Sampler(steps=4, churn=8.0, churn_min=0.05, churn_max=50.0, churn_noise=1.003)


def gaussian_denoiser(x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
    """The exact posterior mean for data ~ N(0, DATA^2): the ODE then is x(s) / sqrt(DATA^2 + s^2) = const."""
    variance = sigma.reshape(-1, 1, 1, 1) ** 2
    return x * DATA**2 / (DATA**2 + variance)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddpmpp-cond-16", "ncsnpp-uncond-16", "adm-cond-16"])
def test_reference_samples(golden: Path, name: str) -> None:
    with np.load(golden / "networks" / f"{name}.npz") as file:
        data = {key: file[key] for key in file.files}
    denoiser = Denoiser(parse(Architecture, json.loads(str(data["arch"])), name)).eval()
    denoiser.load_state_dict(
        {key[6:]: torch.from_numpy(value) for key, value in data.items() if key.startswith("state/")}
    )
    z, one_hot = torch.from_numpy(data["x"]), torch.from_numpy(data["labels"])
    images = heun_sample(denoiser, z, Sampler(steps=6), one_hot)
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


def test_many_steps_solve_the_ode_to_second_order() -> None:
    z = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    solution = 80 * z.double() * math.sqrt(DATA**2 / (DATA**2 + 80**2))

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


def test_churn_raises_the_level_and_the_variance_together() -> None:
    """Of two levels, 80 and 0.002, the first is raised by the largest allowed factor, sqrt(2)."""
    seen: list[float] = []

    def recording(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        seen.append(float(sigma))
        return gaussian_denoiser(x, sigma)

    fresh = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    z = torch.ones(1, 1, 2, 2)
    sampler = Sampler(steps=2, churn=40.0, churn_min=1.0, churn_noise=1.5)
    images = heun_sample(recording, z, sampler, noise=lambda x: fresh)
    assert seen == pytest.approx([80 * math.sqrt(2), 0.002, 0.002])
    raised = 80 * z.double() + 80 * 1.5 * fresh  # sqrt(2 - 1) * 80 of fresh noise
    x = heun_step(gaussian_denoiser, raised, 80 * math.sqrt(2), 0.002)
    x = heun_step(gaussian_denoiser, x, 0.002, 0.0)
    torch.testing.assert_close(images, x.float())


# --- a teacher's samples, and pairs ---------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [Sampler(steps=3), STOCHASTIC], ids=["deterministic", "stochastic"])
@pytest.mark.parametrize("conditional", [False, True])
def test_image_i_is_the_same_in_any_split(toy: Any, sampler: Sampler, conditional: bool) -> None:
    denoiser = load_denoiser(toy.teachers[conditional])
    whole = sample_range(denoiser, sampler, 5, 2, 6)
    parts = [sample_range(denoiser, sampler, 5, start, 2) for start in (2, 4, 6)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(whole, sample_range(denoiser, sampler, 6, 2, 6), atol=1e-2)


def test_latents_and_labels_are_those_of_the_index(toy: Any) -> None:
    denoiser = load_denoiser(toy.teachers[True])
    z, one_hot = latents(0, 7, 4, (1, 8, 8)), functional.one_hot(labels(0, 7, 4, 4), 4).float()
    found = sample_range(denoiser, Sampler(steps=2), 0, 7, 4)
    assert torch.equal(found, heun_sample(denoiser, z, Sampler(steps=2), one_hot))


@pytest.mark.parametrize("conditional", [False, True])
def test_pairs_are_noise_and_the_end_of_the_ode_from_it(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conditional: bool
) -> None:
    monkeypatch.setattr("gdd.diffusion.sampler.PAIR_BATCH", 4)  # several batches, the last one smaller
    path = tmp_path / "pairs.safetensors"
    make_pairs(path, toy.teachers[conditional], steps=3, count=10)
    pairs = load_pairs(path)
    assert torch.equal(pairs.z, torch.stack([noise(0, "pair", index, (1, 8, 8)) for index in range(10)]))
    one_hot = None
    if conditional:
        assert pairs.labels is not None
        assert torch.equal(pairs.labels, labels(0, 0, 10, 4))
        one_hot = functional.one_hot(pairs.labels, 4).float()
    else:
        assert pairs.labels is None
    expected = heun_sample(load_denoiser(toy.teachers[conditional]), pairs.z, Sampler(steps=3), one_hot)
    torch.testing.assert_close(pairs.x, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="holds no pairs"):
        load_pairs(toy.teachers[False])
