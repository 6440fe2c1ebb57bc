"""What a student does besides the formulas of a step: when, on what, and what it keeps."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gdd.config.freeze import frozen_names
from gdd.config.records import EVALUATION_SEED
from gdd.data.image_array import quantise
from gdd.distill.distill import prepare
from gdd.distill.generate import SAMPLES, generate, keep_only
from gdd.distill.student import Student
from gdd.networks.checkpoint import load_generator, load_weights
from gdd.randomness import labels, latents
from gdd.training.gradients import Gradients
from gdd.training.world import World

pytestmark = pytest.mark.slow

BATCH, SEED = 8, 5


def student_at(toy: Any, folder: Path, images: int, conditional: bool = False, **changes: Any) -> Student:
    student = prepare(toy.recipe(**changes), SEED, toy.inputs(conditional), toy.data, folder)
    student.images = images
    return student


def test_r1_is_due_every_so_many_iterations_but_not_at_the_first(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, due = student_at(toy, tmp_path, 0), []
    monkeypatch.setattr(student, "r1_step", lambda parts: due.append(student.images // BATCH) or 0)
    for _ in range(6):
        student.step()
    assert due == [2, 4]


def test_the_average_follows_the_ramp(toy: Any, tmp_path: Path) -> None:
    student = student_at(toy, tmp_path, 0)
    student.step()
    for mean, new in zip(student.average.parameters(), student.generator.parameters(), strict=True):
        assert torch.equal(mean, new)  # the first step copies
    before = copy.deepcopy(student.average)
    student.step()
    decay = 0.5 ** (BATCH / (0.5 * BATCH))  # half-life: the ramp, half of the 8 images seen before
    networks = (before, student.generator, student.average)
    for old, new, mean in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(mean, decay * old + (1 - decay) * new, rtol=1e-5, atol=1e-7)


def test_non_finite_gradients_are_replaced_and_counted(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = student_at(toy, tmp_path, 2 * BATCH)
    counts = []

    def replace(gradients: Gradients, _: World) -> Tensor:
        counts.append(sum(map(len, gradients.buckets)))
        return torch.tensor(10 ** len(counts))

    monkeypatch.setattr(Gradients, "finish", replace)
    assert student.step()["replaced_gradients"] == 10 + 100 + 1000  # generator, discriminator, R1
    assert student.discriminator
    heads = len(list(student.discriminator.heads.parameters()))
    assert counts == [len(list(student.generator.parameters())), heads, heads]


@pytest.mark.parametrize("policy", ["none", "conv", "norms-only"])
def test_frozen_parameters_stay_to_the_bit_and_cost_nothing(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """The snapshots hold the average, which never touches a frozen weight; so look at what is trained."""
    sent: list[int] = []
    monkeypatch.setattr(World, "begin_sum", lambda _, tensor: sent.append(tensor.numel()))
    student = student_at(toy, tmp_path, 0, freeze=policy)
    before = {name: parameter.clone() for name, parameter in student.generator.named_parameters()}
    for _ in range(4):
        student.step()
    after, frozen = dict(student.generator.named_parameters()), set(frozen_names(before, policy))
    assert {name for name, old in before.items() if torch.equal(old, after[name])} == frozen
    assert all((parameter.grad is None) == (name in frozen) for name, parameter in after.items())
    trained = [parameter for name, parameter in after.items() if name not in frozen]
    assert set(student.optimizer.state) == set(trained)
    assert sent[0] == sum(parameter.numel() for parameter in trained)  # the generator's gradients


def test_augmentation_changes_all_but_what_r1_sees(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = student_at(toy, tmp_path, 2 * BATCH, augment={"kind": "diffaugment"})
    purposes, original = [], Student._augmented

    def noted(self: Student, images: Any, part: Any, purpose: str) -> Any:
        purposes.append(purpose)
        return original(self, images, part, purpose)

    monkeypatch.setattr(Student, "_augmented", noted)
    scalars = student.step()  # with R1
    for of in ("generator", "discriminator", "real"):
        assert purposes.count(f"{of} augmentation") == len(purposes) / 3 == 2  # two parts
    plain = student_at(toy, tmp_path, 2 * BATCH).step()
    assert scalars["loss_generator"] != plain["loss_generator"]
    assert scalars["augment_p"] == 1


@pytest.mark.parametrize("conditional", [False, True], ids=["unconditional", "conditional"])
def test_a_snapshot_is_the_average_and_its_images(toy: Any, tmp_path: Path, conditional: bool) -> None:
    student = student_at(toy, tmp_path, 0, conditional)
    student.step()
    student.step()
    student.snapshot(16)
    path = tmp_path / "snapshots" / "000000016.safetensors"
    generator = load_generator(path)
    for name, tensor in student.average.state_dict().items():
        assert torch.equal(generator.state_dict()[name], tensor)
    _, header = load_weights(path)
    recipe_hash = toy.recipe().fingerprint()
    facts = {"images": 16, "dataset": "blobs", "recipe_hash": recipe_hash, "seed": SEED, "kind": "generator"}
    assert header == facts | {"arch": student.average.arch.model_dump(mode="json")}
    z = latents(EVALUATION_SEED, 0, SAMPLES, (1, 8, 8))
    one_hot = None
    if conditional:
        one_hot = functional.one_hot(labels(EVALUATION_SEED, 0, SAMPLES, 4), 4).float()
    images = np.load(tmp_path / "samples" / "000000016.npz")["images"]
    assert np.array_equal(images, quantise(student.average(z, one_hot)).numpy())
    assert images.shape == (SAMPLES, 8, 8, 1)
    assert torch.allclose(generate(generator, 3, 2), generate(generator, 0, 6)[3:5], atol=1e-5)


def test_a_snapshot_knows_that_nothing_is_added_between_its_steps(toy: Any, tmp_path: Path) -> None:
    student = student_at(toy, tmp_path, 0, generator_steps=2, renoise=False)
    student.step()
    student.snapshot(8)
    generator = load_generator(tmp_path / "snapshots" / "000000008.safetensors")
    assert (generator.steps, generator.latent_shape) == (2, (1, 8, 8))


def test_snapshots_that_are_not_kept_are_gone_in_both_places(tmp_path: Path) -> None:
    for place in ("snapshots", "state/snapshots", "samples"):
        (tmp_path / place).mkdir(parents=True)
        for images in (100, 200, 300):
            (tmp_path / place / f"{images:09d}.safetensors").touch()
    (tmp_path / "snapshots" / f"{100:09d}.safetensors").unlink()  # a call that was interrupted
    keep_only(tmp_path, {200, 300})
    for place, kept in (
        ("snapshots", [200, 300]),
        ("state/snapshots", [200, 300]),
        ("samples", [100, 200, 300]),
    ):
        assert sorted(int(path.stem) for path in (tmp_path / place).iterdir()) == kept
