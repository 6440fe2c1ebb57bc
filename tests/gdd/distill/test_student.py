"""One step of everything, against the formulas written out again."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gdd.data.image_array import quantise, to_signed
from gdd.data.loader import EpochOrder
from gdd.diffusion.sampling import load_pairs
from gdd.distill.distill import prepare
from gdd.distill.generate import EVALUATION_SEED, SAMPLES, generate
from gdd.distill.student import Student
from gdd.networks.checkpoint import load_generator
from gdd.randomness import labels, latents, noise, stream

BATCH, GROUP, SEED = 8, 4, 5
BOTH = pytest.mark.parametrize("conditional", [False, True], ids=["unconditional", "conditional"])


def student_at(world: Any, folder: Path, images: int, conditional: bool = False, **changes: Any) -> Student:
    student, _ = prepare(world.recipe(**changes), SEED, world.inputs(conditional), world.data, folder)
    student.images = images
    return student


def batch_at(world: Any, images: int, conditional: bool) -> tuple[Tensor, Tensor | None]:
    """Return images and labels of the step that begins after so many images; both groups of it."""
    chosen = EpochOrder(len(world.data), SEED).indices(images, BATCH)
    one_hot = functional.one_hot(torch.tensor(world.data.labels[chosen]), 4).float()
    return to_signed(world.data.images[chosen]), one_hot if conditional else None


def noise_at(purpose: str, images: int) -> Tensor:
    """Return the noise of that step: the first group's, then the second's."""
    shape = (GROUP, 1, 8, 8)
    return torch.cat([noise(SEED, purpose, images // GROUP + number, shape) for number in (0, 1)])


def softplus_mean(logits: list[Tensor], sign: int) -> Tensor:
    """Mean over images and the logits of one image and backbone, summed over backbones."""
    return sum((torch.log1p(torch.exp(sign * of.double())).mean(1) for of in logits), torch.zeros(1)).mean()


def assert_gradients(
    optimizer: torch.optim.Adam, parameters: Iterable[nn.Parameter], expected: Iterable[Tensor]
) -> None:
    """With beta1 = 0, Adam's first moment is the gradient it was last given."""
    for parameter, gradient in zip(parameters, expected, strict=True):
        found = optimizer.state[parameter]["exp_avg"]
        torch.testing.assert_close(found, gradient, rtol=2e-3, atol=2e-6 + 1e-4 * float(gradient.abs().max()))


def adam_step(
    old: Tensor, state: dict[str, Tensor], rate: float, beta2: float, before: Tensor | float = 0.0
) -> Tensor:
    """Return where one step of Adam with beta1 = 0 takes a parameter."""
    second = beta2 * before + (1 - beta2) * state["exp_avg"] ** 2
    return old - rate * state["exp_avg"] / ((second / (1 - beta2 ** float(state["step"]))).sqrt() + 1e-8)


@BOTH
def test_the_generator_takes_the_non_saturating_step(world: Any, tmp_path: Path, conditional: bool) -> None:
    student = student_at(world, tmp_path, 0, conditional, backbones=["one", "two"])
    generator, discriminator = copy.deepcopy(student.generator), copy.deepcopy(student.discriminator)
    assert discriminator
    _, one_hot = batch_at(world, 0, conditional)
    fakes = generator(noise_at("generator noise", 0), one_hot)
    loss = softplus_mean(discriminator(fakes, one_hot), -1)
    gradients = torch.autograd.grad(loss, list(generator.parameters()))

    scalars = student.step()
    assert scalars["loss_generator"] == pytest.approx(loss.item(), rel=1e-5)
    assert_gradients(student.optimizer, student.generator.parameters(), gradients)
    for old, new in zip(generator.parameters(), student.generator.parameters(), strict=True):
        expected = adam_step(old, student.optimizer.state[new], 1e-3, 0.99)
        torch.testing.assert_close(new, expected, rtol=1e-5, atol=1e-7)


@BOTH
@pytest.mark.parametrize("reuse", [False, True], ids=["fresh", "reused"])
def test_the_discriminator_takes_its_step_on_the_same_real_images(
    world: Any, tmp_path: Path, conditional: bool, reuse: bool
) -> None:
    student = student_at(world, tmp_path, 0, conditional, reuse_fakes=reuse, backbones=["one", "two"])
    before, discriminator = copy.deepcopy(student.generator), copy.deepcopy(student.discriminator)
    assert discriminator
    assert student.discriminator
    assert student.discriminator_optimizer
    images, one_hot = batch_at(world, 0, conditional)
    fakes = before(noise_at("generator noise", 0), one_hot).detach()
    discriminator(fakes, one_hot)  # what the generator's step does to spectral norm
    scalars = student.step()
    if not reuse:  # fresh noise, through the generator as the step has just left it
        fakes = student.generator(noise_at("discriminator noise", 0), one_hot).detach()
    on_fakes = discriminator(fakes, one_hot)
    loss = softplus_mean(on_fakes, 1) + softplus_mean(discriminator(images, one_hot), -1)
    gradients = torch.autograd.grad(loss, list(discriminator.trainable_parameters()))

    assert scalars["loss_discriminator"] == pytest.approx(loss.item(), rel=1e-5)
    assert scalars.keys() >= {"logits_real", "logits_fake", "replaced_gradients"}
    optimizer = student.discriminator_optimizer
    assert_gradients(optimizer, student.discriminator.trainable_parameters(), gradients)
    every = 2  # the learning rate and beta2 make up for the updates that R1 has of its own
    ratio = every / (every + 1)
    pairs = zip(
        discriminator.trainable_parameters(), student.discriminator.trainable_parameters(), strict=True
    )
    for old, new in pairs:
        expected = adam_step(old, optimizer.state[new], 2e-3 * ratio, 0.99**ratio)
        torch.testing.assert_close(new, expected, rtol=1e-5, atol=1e-7)


def test_lazy_regularisation_at_the_published_interval(world: Any, tmp_path: Path) -> None:
    student = student_at(
        world, tmp_path, 0, r1={"gamma": 1e-4, "every": 16}, lr={"generator": 1e-4, "discriminator": 1e-4}
    )
    assert student.discriminator_optimizer
    (group,) = student.discriminator_optimizer.param_groups
    assert group["lr"] == pytest.approx(1e-4 * 16 / 17, rel=1e-12)
    assert group["betas"] == pytest.approx((0.0, 0.99 ** (16 / 17)), rel=1e-12)
    (group,) = student.optimizer.param_groups
    assert (group["lr"], group["betas"], group["eps"]) == (1e-4, (0.0, 0.99), 1e-8)


@BOTH
def test_r1_is_an_update_of_its_own(world: Any, tmp_path: Path, conditional: bool) -> None:
    iteration = 4
    student = student_at(world, tmp_path, iteration * BATCH, conditional)
    without = student_at(world, tmp_path, iteration * BATCH, conditional, r1={"gamma": 0.0, "every": 2})
    images, one_hot = batch_at(world, iteration * BATCH, conditional)
    assert student.discriminator
    assert student.discriminator_optimizer
    assert without.discriminator
    assert without.discriminator_optimizer
    student.step()
    without.step()  # all but R1

    images.requires_grad_(True)
    total = sum(logits.sum() for logits in without.discriminator(images, one_hot))
    (gradient,) = torch.autograd.grad(total, images, create_graph=True)
    penalty = gradient.square().sum(dim=(1, 2, 3)).mean()
    loss = 2 * 0.1 / 2 * penalty  # every * gamma / 2
    parameters = list(without.discriminator.trainable_parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    expected = [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(parameters, gradients, strict=True)
    ]
    found = list(student.discriminator.trainable_parameters())
    reached = [number for number, gradient in enumerate(gradients) if gradient is not None]
    assert_gradients(
        student.discriminator_optimizer, [found[n] for n in reached], [expected[n] for n in reached]
    )
    for n in reached:
        state = student.discriminator_optimizer.state[found[n]]
        before = without.discriminator_optimizer.state[parameters[n]]["exp_avg_sq"]
        assert float(state["step"]) == 2
        moved = adam_step(parameters[n], state, 2e-3 * 2 / 3, 0.99 ** (2 / 3), before)
        torch.testing.assert_close(found[n], moved, rtol=1e-5, atol=1e-7)


def test_r1_is_due_every_so_many_iterations_but_not_at_the_first(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = []
    monkeypatch.setattr(Student, "generator_step", lambda *_: ([], 0))
    monkeypatch.setattr(Student, "discriminator_step", lambda *_: 0)
    monkeypatch.setattr(Student, "r1_step", lambda self, *_: due.append(self.images // BATCH) or 0)
    monkeypatch.setattr(Student, "_over_the_batch", lambda *_: {})
    student = student_at(world, tmp_path, 0)
    for _ in range(6):
        student.step()
    assert due == [2, 4]


def test_a_combined_objective_is_the_sum(world: Any, tmp_path: Path) -> None:
    student = student_at(
        world,
        tmp_path,
        0,
        objective={"distributional": "hinge", "instance": "direct", "pairs": 10, "instance_weight": 3.0},
    )
    generator, discriminator = copy.deepcopy(student.generator), copy.deepcopy(student.discriminator)
    pairs = load_pairs(world.pairs[False])
    assert discriminator
    fakes = generator(noise_at("generator noise", 0))
    adversarial = -sum(logits.mean() for logits in discriminator(fakes))
    instance: Any = 0
    for group in (0, 1):
        chosen = torch.randint(10, (GROUP,), generator=stream(SEED, "pair choice", group))
        instance = instance + (generator(pairs.z[chosen]) - pairs.x[chosen]).square().mean() / 2
    gradients = torch.autograd.grad(adversarial + 3 * instance, list(generator.parameters()))
    scalars = student.step()
    assert scalars["loss_generator"] == pytest.approx(adversarial.item(), rel=1e-4)
    assert scalars["loss_instance"] == pytest.approx(instance.item(), rel=1e-4)
    assert_gradients(student.optimizer, student.generator.parameters(), gradients)


def test_an_instance_objective_has_no_discriminator(world: Any, tmp_path: Path) -> None:
    student = student_at(world, tmp_path, 0, objective={"instance": "direct", "pairs": 10})
    assert student.discriminator is None
    assert student.step().keys() == {"loss_instance", "replaced_gradients"}
    assert "discriminator" not in student.state()


def test_the_average_follows_the_ramp(world: Any, tmp_path: Path) -> None:
    student = student_at(world, tmp_path, 0)
    student.step()
    for mean, new in zip(student.average.parameters(), student.generator.parameters(), strict=True):
        assert torch.equal(mean, new)  # the first step copies
    before = copy.deepcopy(student.average)
    student.step()
    decay = 0.5 ** (BATCH / (0.5 * BATCH))  # half-life: the ramp, half of the 8 images seen before
    triples = zip(
        before.parameters(), student.generator.parameters(), student.average.parameters(), strict=True
    )
    for old, new, mean in triples:
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
    assert [len(parameters) for parameters in seen] == [
        len(student.trainable),
        *[len(list(student.discriminator.trainable_parameters()))] * 2,
    ]


@pytest.mark.parametrize("instance", [False, True], ids=["gdd", "direct"])
def test_the_state_is_all_there_is(world: Any, tmp_path: Path, instance: bool) -> None:
    objective = {"instance": "direct", "pairs": 10} if instance else {"distributional": "softplus"}
    first = student_at(world, tmp_path, 0, objective=objective, freeze="conv")
    for _ in range(3):
        first.step()
    torch.save(first.state(), tmp_path / "state.pt")
    second = student_at(world, tmp_path, 0, objective=objective, freeze="conv")
    second.load(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(2):
        assert first.step() == second.step()
    one, other = first.state(), second.state()
    for part in ("generator", "average", *([] if instance else ["discriminator"])):
        assert one[part].keys() == other[part].keys()
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])
    if not instance:
        assert any(name.endswith("weight_u") for name in one["discriminator"])
        assert any(name.endswith("running_var") for name in one["discriminator"])
        assert not any("backbones" in name for name in one["discriminator"])


ADA = {"kind": "ada", "target": 0.0, "speed_kimg": 0.05}


@pytest.mark.slow
@pytest.mark.parametrize("augment", [ADA, {"kind": "diffaugment"}], ids=["ADA", "DiffAugment"])
def test_augmentation_resumes_and_changes_what_the_discriminator_sees(
    world: Any, tmp_path: Path, augment: dict[str, Any]
) -> None:
    plain, first = student_at(world, tmp_path, 0), student_at(world, tmp_path, 0, augment=augment)
    logged = [first.step() for _ in range(5)]
    assert "augment_p" not in plain.step()
    probabilities = [step["augment_p"] for step in logged]
    if augment["kind"] == "ada":
        assert probabilities[:3] == [0, 0, 0]  # adjusted every four steps
        assert probabilities[3] in (0, BATCH * 4 / 50)  # by batch * 4 / speed, up or (from 0) not at all
    else:
        assert probabilities == [1] * 5
        assert logged[0]["loss_generator"] != plain.step()["loss_generator"]
    torch.save(first.state(), tmp_path / "state.pt")
    second = student_at(world, tmp_path, 0, augment=augment)
    second.load(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(4):
        assert first.step() == second.step()


def test_r1_looks_at_images_as_they_are(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = student_at(world, tmp_path, 2 * BATCH, augment={"kind": "diffaugment"})
    purposes = []
    original = Student._augmented

    def noted(self: Student, images: Any, part: Any, purpose: str) -> Any:
        purposes.append(purpose)
        return original(self, images, part, purpose)

    monkeypatch.setattr(Student, "_augmented", noted)
    student.step()  # with R1
    parts = len(purposes) // 3
    assert sorted(purposes) == sorted(
        ["generator augmentation", "discriminator augmentation", "real augmentation"] * parts
    )


@BOTH
def test_a_snapshot_is_the_average_and_its_images(world: Any, tmp_path: Path, conditional: bool) -> None:
    student = student_at(world, tmp_path, 0, conditional)
    student.step()
    student.step()
    student.snapshot(16)
    generator = load_generator(tmp_path / "snapshots" / "000000016.safetensors")
    for name, tensor in student.average.state_dict().items():
        assert torch.equal(generator.state_dict()[name], tensor)
    z = latents(EVALUATION_SEED, 0, SAMPLES, (1, 8, 8))
    one_hot = None
    if conditional:
        one_hot = functional.one_hot(labels(EVALUATION_SEED, 0, SAMPLES, 4), 4).float()
    images = np.load(tmp_path / "samples" / "000000016.npz")["images"]
    assert np.array_equal(images, quantise(student.average(z, one_hot)).numpy())
    assert images.shape == (SAMPLES, 8, 8, 1)
    assert torch.allclose(generate(generator, 3, 2), generate(generator, 0, 6)[3:5], atol=1e-5)
