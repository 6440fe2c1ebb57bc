"""What a student does besides the formulas of a step: when, on what, and what it keeps."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from gdd.data.image_array import quantise
from gdd.distill.distill import prepare
from gdd.distill.generate import EVALUATION_SEED, SAMPLES, generate
from gdd.distill.snapshots import keep_only
from gdd.distill.student import Student
from gdd.networks.checkpoint import load_generator, load_weights
from gdd.randomness import labels, latents
from gdd.training.world import World

pytestmark = pytest.mark.slow

BATCH, SEED = 8, 5
DIRECT = {"instance": "direct", "pairs": 10}


def student_at(world: Any, folder: Path, images: int, conditional: bool = False, **changes: Any) -> Student:
    student, _ = prepare(world.recipe(**changes), SEED, world.inputs(conditional), world.data, folder)
    student.images = images
    return student


def test_rates_and_moments_at_the_published_interval(world: Any, tmp_path: Path) -> None:
    """Lazy regularisation: updates of R1's own make up for smaller ones."""
    rates = {"generator": 1e-4, "discriminator": 1e-4}
    student = student_at(world, tmp_path, 0, r1={"gamma": 1e-4, "every": 16}, lr=rates)
    assert student.discriminator_optimizer
    (group,) = student.discriminator_optimizer.param_groups
    assert group["lr"] == pytest.approx(1e-4 * 16 / 17, rel=1e-12)
    assert group["betas"] == pytest.approx((0.0, 0.99 ** (16 / 17)), rel=1e-12)
    (group,) = student.optimizer.param_groups
    assert (group["lr"], group["betas"], group["eps"]) == (1e-4, (0.0, 0.99), 1e-8)


def test_r1_is_due_every_so_many_iterations_but_not_at_the_first(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    due, original = [], Student.r1_step

    def noted(self: Student, *arguments: Any) -> int:
        due.append(self.images // BATCH)
        return original(self, *arguments)

    monkeypatch.setattr(Student, "r1_step", noted)
    student = student_at(world, tmp_path, 0)
    for _ in range(6):
        student.step()
    assert due == [2, 4]


def test_the_average_follows_the_ramp(world: Any, tmp_path: Path) -> None:
    student = student_at(world, tmp_path, 0)
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
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = student_at(world, tmp_path, 2 * BATCH)
    seen = []

    def replace(parameters: Iterable[nn.Parameter]) -> int:
        seen.append(list(parameters))
        return 10 ** len(seen)

    monkeypatch.setattr("gdd.distill.student.replace_nonfinite", replace)
    assert student.step()["replaced_gradients"] == 10 + 100 + 1000  # generator, discriminator, R1
    assert student.discriminator
    heads = len(list(student.discriminator.trainable_parameters()))
    assert [len(parameters) for parameters in seen] == [len(student.trainable), heads, heads]


@pytest.mark.parametrize("policy", ["none", "conv", "norms-only"])
def test_frozen_parameters_stay_to_the_bit_and_cost_nothing(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """The snapshots hold the average, which never touches a frozen weight; so look at what is trained."""
    sent: list[int] = []
    monkeypatch.setattr(World, "all_reduce", lambda _, tensors: sent.append(sum(t.numel() for t in tensors)))
    student, frozen = prepare(world.recipe(freeze=policy), SEED, world.inputs(), world.data, tmp_path)
    before = {name: parameter.clone() for name, parameter in student.generator.named_parameters()}
    for _ in range(4):
        student.step()
    after = dict(student.generator.named_parameters())
    assert {name for name, old in before.items() if torch.equal(old, after[name])} == set(frozen)
    assert bool(frozen) == (policy != "none")
    assert all((parameter.grad is None) == (name in frozen) for name, parameter in after.items())
    assert set(student.optimizer.state) == {p for name, p in after.items() if name not in frozen}
    assert sent[0] == sum(parameter.numel() for parameter in student.trainable)  # the generator's gradients


ADA = {"kind": "ada", "target": 0.0, "speed_kimg": 0.05}
KINDS: dict[str, dict[str, Any]] = {
    "gdd-i": {"freeze": "conv"},
    "conditional": {},
    "direct": {"objective": DIRECT},
    "ADA": {"augment": ADA},
    "DiffAugment": {"augment": {"kind": "diffaugment"}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_is_all_there_is(world: Any, tmp_path: Path, kind: str) -> None:
    first, second = (student_at(world, tmp_path, 0, kind == "conditional", **KINDS[kind]) for _ in range(2))
    for _ in range(3):
        first.step()
    torch.save(first.state(), tmp_path / "state.pt")
    second.load(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(4):
        assert first.step() == second.step()
    one, other = first.state(), second.state()
    assert ("discriminator" in one) == (kind != "direct")
    for part in ("generator", "average", "discriminator"):
        for name, tensor in one.get(part, {}).items():
            assert torch.equal(tensor, other[part][name])
            assert "backbones" not in name
    if kind == "direct":
        assert first.step().keys() == {"loss_instance", "replaced_gradients"}


def test_augmentation_is_seen_by_all_but_r1(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = student_at(world, tmp_path, 2 * BATCH, augment={"kind": "diffaugment"})
    purposes, original = [], Student._augmented

    def noted(self: Student, images: Any, part: Any, purpose: str) -> Any:
        purposes.append(purpose)
        return original(self, images, part, purpose)

    monkeypatch.setattr(Student, "_augmented", noted)
    with_augmentation = student.step()  # with R1
    assert set(purposes) == {"generator augmentation", "discriminator augmentation", "real augmentation"}
    assert len(purposes) == 3 * 2  # two parts
    assert (
        with_augmentation["loss_generator"] != student_at(world, tmp_path, 2 * BATCH).step()["loss_generator"]
    )
    assert with_augmentation["augment_p"] == 1


def test_ada_adapts_every_four_steps(world: Any, tmp_path: Path) -> None:
    student = student_at(world, tmp_path, 0, augment=ADA | {"target": -0.9})
    probabilities = [student.step()["augment_p"] for _ in range(4)]
    assert probabilities == [0, 0, 0, BATCH * 4 / 50]  # by batch * 4 / speed


@pytest.mark.parametrize("conditional", [False, True], ids=["unconditional", "conditional"])
def test_a_snapshot_is_the_average_and_its_images(world: Any, tmp_path: Path, conditional: bool) -> None:
    student = student_at(world, tmp_path, 0, conditional)
    student.step()
    student.step()
    student.snapshot(16)
    path = tmp_path / "snapshots" / "000000016.safetensors"
    generator = load_generator(path)
    for name, tensor in student.average.state_dict().items():
        assert torch.equal(generator.state_dict()[name], tensor)
    _, header = load_weights(path)
    recipe_hash = world.recipe().fingerprint()
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


def test_snapshots_that_are_not_kept_are_gone_in_both_places(tmp_path: Path) -> None:
    for place in ("snapshots", "state/snapshots", "samples"):
        (tmp_path / place).mkdir(parents=True)
        for images in (100, 200, 300):
            (tmp_path / place / f"{images:09d}.safetensors").touch()
    (tmp_path / "snapshots" / f"{100:09d}.safetensors").unlink()  # a call that was interrupted
    assert keep_only(tmp_path, {200, 300}) == [100]
    assert keep_only(tmp_path, {200, 300}) == []
    for place in ("snapshots", "state/snapshots"):
        assert sorted(int(path.stem) for path in (tmp_path / place).iterdir()) == [200, 300]
    assert len(list((tmp_path / "samples").iterdir())) == 3
