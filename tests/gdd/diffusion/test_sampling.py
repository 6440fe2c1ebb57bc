from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from gdd.config.recipe import Sampler
from gdd.diffusion.sampler import heun_sample
from gdd.diffusion.sampling import load_pairs, make_pairs, sample_range
from gdd.errors import UserError
from gdd.networks.checkpoint import load_denoiser
from gdd.randomness import labels, latents, noise

STOCHASTIC = Sampler(steps=4, churn=8.0, churn_min=0.05, churn_max=50.0, churn_noise=1.003)


@pytest.mark.parametrize("sampler", [Sampler(steps=3), STOCHASTIC], ids=["deterministic", "stochastic"])
@pytest.mark.parametrize("conditional", [False, True])
def test_image_i_is_the_same_in_any_split(world: Any, sampler: Sampler, conditional: bool) -> None:
    denoiser = load_denoiser(world.teachers[conditional])
    whole = sample_range(denoiser, sampler, 5, 2, 6)
    parts = [sample_range(denoiser, sampler, 5, start, 2) for start in (2, 4, 6)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(whole, sample_range(denoiser, sampler, 6, 2, 6), atol=1e-2)


def test_latents_and_labels_are_those_of_the_index(world: Any) -> None:
    denoiser = load_denoiser(world.teachers[True])
    z, one_hot = latents(0, 7, 4, (1, 8, 8)), functional.one_hot(labels(0, 7, 4, 4), 4).float()
    found = sample_range(denoiser, Sampler(steps=2), 0, 7, 4)
    assert torch.equal(found, heun_sample(denoiser, z, Sampler(steps=2), one_hot))


@pytest.mark.parametrize("conditional", [False, True])
def test_pairs_are_noise_and_the_end_of_the_ode_from_it(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conditional: bool
) -> None:
    monkeypatch.setattr("gdd.diffusion.sampling.PAIR_BATCH", 4)  # several batches, the last one smaller
    path = tmp_path / "pairs.safetensors"
    make_pairs(path, world.teachers[conditional], Sampler(steps=3), 10, seed=2)
    make_pairs(tmp_path / "again", world.teachers[conditional], Sampler(steps=3), 10, seed=2)
    assert path.read_bytes() == (tmp_path / "again").read_bytes()
    pairs = load_pairs(path)
    assert torch.equal(pairs.z, torch.stack([noise(2, "pair", index, (1, 8, 8)) for index in range(10)]))
    one_hot = None
    if conditional:
        assert pairs.labels is not None
        assert torch.equal(pairs.labels, labels(2, 0, 10, 4))
        one_hot = functional.one_hot(pairs.labels, 4).float()
    else:
        assert pairs.labels is None
    expected = heun_sample(load_denoiser(world.teachers[conditional]), pairs.z, Sampler(steps=3), one_hot)
    torch.testing.assert_close(pairs.x, expected, rtol=1e-4, atol=1e-4)


def test_pairs_need_a_deterministic_sampler(world: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="deterministic sampler; set 'churn' to 0"):
        make_pairs(tmp_path / "pairs.safetensors", world.teachers[False], STOCHASTIC, 4)
    assert list(tmp_path.iterdir()) == []


def test_something_else_is_no_pairs(world: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no pairs"):
        load_pairs(world.teachers[False])
    with pytest.raises(UserError, match="do not exist"):
        load_pairs(tmp_path / "missing.safetensors")
