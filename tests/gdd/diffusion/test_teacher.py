from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gdd.config.recipe import Ema, TeacherRecipe
from gdd.data.image_array import to_signed
from gdd.diffusion.teacher import TeacherTraining, edm_loss, learning_rate, train_teacher
from gdd.errors import Stopped
from gdd.files import sha256
from gdd.networks.checkpoint import load_denoiser
from gdd.networks.preconditioning import denoiser_coefficients
from gdd.randomness import stream

BATCH = 8
RECIPE = TeacherRecipe(
    images=64, batch=BATCH, lr=2e-3, warmup=24, decay=0.5, ema=Ema(half_life=40, ramp=0.5), seed=3
)
# Class-conditional, and with every random layer there is.
NOISY: dict[str, Any] = {"conditional": True, "dropout": 0.2, "label_dropout": 0.3}


def train(folder: Path, toy: Any) -> None:
    train_teacher(folder, RECIPE, toy.arch(**NOISY), toy.data, checkpoint_every=24)


def test_a_network_that_outputs_zero_has_loss_one_at_every_level() -> None:
    def skip_only(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        return denoiser_coefficients(sigma).skip.reshape(-1, 1, 1, 1) * x

    source = torch.Generator().manual_seed(0)
    images = torch.randn(2000, 1, 4, 4, generator=source) * 0.5
    for p_mean in (-4.0, 0.0, 4.0):
        loss = edm_loss(skip_only, images, None, source, p_mean, 0.1)
        assert loss.shape == (2000,)
        assert loss.mean().item() == pytest.approx(1, abs=0.03)


def test_the_learning_rate_rises_stays_and_falls_to_a_tenth() -> None:
    recipe = TeacherRecipe(images=1000, batch=10, lr=0.5, warmup=100, decay=0.4, ema=Ema(half_life=10))
    expected = {0: 0.05, 40: 0.25, 90: 0.5, 100: 0.5, 600: 0.5, 700: 0.5 * 0.775, 800: 0.275, 1000: 0.05}
    for images, rate in expected.items():
        assert learning_rate(recipe, images) == pytest.approx(rate, rel=1e-12)
    constant = TeacherRecipe(images=1000, batch=10, lr=0.5, ema=Ema(half_life=10))
    assert {learning_rate(constant, images) for images in range(0, 1001, 10)} == {0.5}


@pytest.mark.parametrize("conditional", [False, True])
def test_one_step_is_adam_on_the_weighted_denoising_error(
    toy: Any, tmp_path: Path, conditional: bool
) -> None:
    training = TeacherTraining(RECIPE, toy.arch(conditional), toy.data, tmp_path / "w.safetensors")
    training.images = 16
    before = copy.deepcopy(training.denoiser)

    # EDM Eq. 8 and Table 1, written out again.
    chosen = training.order.indices(16, BATCH)
    images = to_signed(toy.data.images[chosen])
    generator = stream(RECIPE.seed, "teacher noise", 16)
    sigma = torch.exp(-1.2 + 1.2 * torch.randn(BATCH, generator=generator)).reshape(-1, 1, 1, 1)
    noisy = images + sigma * torch.randn(images.shape, generator=generator)
    one_hot = functional.one_hot(torch.tensor(toy.data.labels[chosen]), 4).float() if conditional else None
    error = (before(noisy, sigma.flatten(), one_hot) - images) ** 2
    loss = ((sigma**2 + 0.25) / (0.5 * sigma) ** 2 * error).mean()
    gradients = torch.autograd.grad(loss, list(before.parameters()))

    scalars = training.step()
    assert training.images == 24
    assert scalars == {"loss": pytest.approx(loss.item(), rel=1e-5), "replaced_gradients": 0}
    rate = RECIPE.lr * 24 / 24  # the warm-up ends with this batch
    decay = 0.5 ** (BATCH / 8)  # half-life: the ramp, half of 16 images
    networks = (before, training.denoiser, training.average)
    for old, new, mean, gradient in zip(*(net.parameters() for net in networks), gradients, strict=True):
        state = training.optimizer.state[new]
        torch.testing.assert_close(state["exp_avg"], 0.1 * gradient, rtol=1e-3, atol=1e-6)
        moved = old - rate * (state["exp_avg"] / 0.1) / ((state["exp_avg_sq"] / 0.001).sqrt() + 1e-8)
        torch.testing.assert_close(new, moved, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(mean, decay * old + (1 - decay) * new, rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def uninterrupted(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers") / "noisy"
    train(folder, toy)
    return folder


@pytest.mark.parametrize(("after", "how"), [(2, "crash"), (5, "SIGUSR2")])
def test_resuming_changes_no_bit(
    uninterrupted: Path,
    toy: Any,
    tmp_path: Path,
    interrupt: Callable[..., None],
    published: Callable[[Path], dict[str, bytes]],
    logged: Callable[[Path], list[dict[str, Any]]],
    after: int,
    how: str,
) -> None:
    folder = tmp_path / "noisy"
    interrupt(TeacherTraining, after, how)
    with pytest.raises(Exception) as error:
        train(folder, toy)
    assert error.type.__name__ == ("Crash" if how == "crash" else Stopped.__name__)
    assert not (folder / "model.safetensors").exists()
    torch.manual_seed(after)  # whatever else the next process does
    train(folder, toy)
    assert published(folder) == published(uninterrupted)
    lines, expected = (
        [(line["images"], line["loss"]) for line in logged(of)] for of in (folder, uninterrupted)
    )
    assert lines == expected


def test_what_is_published_and_published_again_without_training(
    uninterrupted: Path, toy: Any, tmp_path: Path, interrupt: Callable[..., None]
) -> None:
    folder = tmp_path / "noisy"
    shutil.copytree(uninterrupted, folder)
    for name in ("model.safetensors", "model.json", "teacher.json", "log.jsonl"):
        (folder / name).unlink()
    interrupt(TeacherTraining, 0, "crash")
    train(folder, toy)

    denoiser = load_denoiser(folder / "model.safetensors")
    assert denoiser.arch == toy.arch(**NOISY)
    identity = json.loads((folder / "model.json").read_text())
    assert identity == {"sha256": sha256(folder / "model.safetensors")}
    facts = json.loads((folder / "teacher.json").read_text())
    assert facts["images"] == 64
    assert facts["recipe"] == RECIPE.model_dump(mode="json")
    assert facts["dataset_sha256"] == toy.data.sha256
    assert facts["parameters"] == sum(parameter.numel() for parameter in denoiser.parameters())
    assert list((folder / "state" / "checkpoints").iterdir()) == []
    assert (folder / "log.jsonl").exists()


@pytest.mark.parametrize("changed", ["recipe", "arch", "data"])
def test_another_recipe_architecture_or_data_set_starts_anew(
    uninterrupted: Path, toy: Any, tmp_path: Path, interrupt: Callable[..., None], changed: str
) -> None:
    folder = tmp_path / "noisy"
    shutil.copytree(uninterrupted, folder)
    others: dict[str, Any] = {
        "recipe": RECIPE.model_copy(update={"seed": 4}),
        "arch": toy.arch(dropout=0.1),
        "data": dataclasses.replace(toy.data, description={"name": "blobs", "sha256": "0" * 64}),
    }
    arguments = {"recipe": RECIPE, "arch": toy.arch(**NOISY), "data": toy.data, changed: others[changed]}
    interrupt(TeacherTraining, 0, "crash")
    with pytest.raises(Exception) as error:
        train_teacher(folder, **arguments)
    assert error.type.__name__ == "Crash"
    (aside,) = folder.glob("state.*")
    assert (aside / "model.safetensors").exists()
