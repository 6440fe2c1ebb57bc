"""Two-time students: they start as the one-time one, and their file says what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gdd.config.architecture import Architecture
from gdd.distill.freeze import FREEZE_POLICIES, frozen_names
from gdd.networks.checkpoint import load_denoiser, load_generator, save_network
from gdd.networks.preconditioning import Denoiser, OneStepGenerator
from gdd.networks.two_time import TwoTimeGenerator
from gdd.networks.weights import load_weights

pytestmark = pytest.mark.slow

COMMON = {
    "img_resolution": 8,
    "img_channels": 1,
    "label_dim": 3,
    "channel_mult": (1, 1),
    "num_blocks": 1,
    "augment_dim": 2,
}
ARCHITECTURES = {
    "ncsn": Architecture(
        model_type="SongUNet",
        model_channels=16,
        embedding_type="fourier",
        channel_mult_noise=2,
        encoder_type="residual",
        **COMMON,
    ),
    "ddpm": Architecture(model_type="SongUNet", model_channels=16, **COMMON),
    "adm": Architecture(model_type="DhariwalUNet", model_channels=64, **COMMON),
}


@pytest.fixture(params=ARCHITECTURES)
def teacher(request: pytest.FixtureRequest) -> Denoiser:
    torch.manual_seed(0)
    denoiser = Denoiser(ARCHITECTURES[request.param])
    with torch.no_grad():
        for parameter in denoiser.parameters():  # fresh networks give almost nothing
            parameter += 0.1 * torch.randn_like(parameter)
    return denoiser


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 1, 8, 8)


LABELS = torch.eye(3)
LEVELS = torch.tensor([0.5, 7.0, 80.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_two_time_student_starts_as_the_one_time_one(
    teacher: Denoiser, x: torch.Tensor, dtype: torch.dtype
) -> None:
    one, two = OneStepGenerator.from_denoiser(teacher, dtype), TwoTimeGenerator.from_denoiser(teacher, dtype)
    assert torch.equal(two(x, LABELS), one(x, LABELS))
    expected = one.forward_at(LEVELS.reshape(-1, 1, 1, 1) * x, LEVELS, LABELS)
    for target in (0.002, 0.4, torch.tensor([0.1, 3.0, 80.0])):
        assert torch.equal(two.predict(LEVELS.reshape(-1, 1, 1, 1) * x, LEVELS, target, LABELS), expected)


def test_the_target_comes_to_matter(teacher: Denoiser, x: torch.Tensor) -> None:
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


def test_a_jump_is_an_euler_step_towards_the_prediction(teacher: Denoiser, x: torch.Tensor) -> None:
    student = TwoTimeGenerator.from_denoiser(teacher)
    target = torch.tensor([0.002, 7.0, 9.0])
    image = student.predict(x, LEVELS, target, LABELS)
    slope = (x - image) / LEVELS.reshape(-1, 1, 1, 1)
    jumped = student.jump(x, LEVELS, target, LABELS)
    torch.testing.assert_close(jumped, x + (target - LEVELS).reshape(-1, 1, 1, 1) * slope)
    assert torch.equal(jumped[1], x[1])  # nowhere to go
    assert student.jump(x.double(), LEVELS.double(), target.double(), LABELS).dtype == torch.float64


def test_only_a_two_time_network_takes_a_target(teacher: Denoiser, x: torch.Tensor) -> None:
    two = TwoTimeGenerator.from_denoiser(teacher)
    with pytest.raises(ValueError, match="target_labels are what a two-time network needs"):
        two.model(x, LEVELS, LABELS)
    with pytest.raises(ValueError, match="no other takes them"):
        teacher.model(x, LEVELS, LABELS, None, LEVELS)


def test_the_file_says_that_it_is_a_two_time_student(
    teacher: Denoiser, x: torch.Tensor, tmp_path: Path
) -> None:
    student = TwoTimeGenerator.from_denoiser(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.01
    path = tmp_path / "student.safetensors"
    save_network(path, student, images=5)
    assert load_weights(path)[1]["kind"] == "two-time generator"
    loaded = load_generator(path)
    assert isinstance(loaded, TwoTimeGenerator)
    expected = student.predict(x, LEVELS, 0.1, LABELS)
    torch.testing.assert_close(loaded.predict(x, LEVELS, 0.1, LABELS), expected)
    with pytest.raises(Exception, match="holds a two-time generator, but a denoiser is needed here"):
        load_denoiser(path)


def test_the_file_of_a_one_time_student_stays_as_it_is(teacher: Denoiser, tmp_path: Path) -> None:
    student = OneStepGenerator.from_denoiser(teacher)
    path = tmp_path / "student.safetensors"
    save_network(path, student, images=5)
    tensors, description = load_weights(path)
    assert description == {"images": 5, "kind": "generator", "arch": student.arch.model_dump(mode="json")}
    assert tensors.keys() == {
        name for name in teacher.state_dict() if not name.startswith("model.map_augment.")
    }
    assert type(load_generator(path)) is OneStepGenerator


@pytest.mark.parametrize("policy", FREEZE_POLICIES)
def test_policies_freeze_the_same_of_both_students(teacher: Denoiser, policy: str) -> None:
    one, two = OneStepGenerator.from_denoiser(teacher), TwoTimeGenerator.from_denoiser(teacher)
    names = [name for name, _ in two.named_parameters()]
    new = [name for name in names if ".map_target." in name]
    assert len(names) == len(list(one.parameters())) + len(new)
    assert len(new) == 4
    expected = frozen_names([name for name, _ in one.named_parameters()], policy)
    assert frozen_names(names, policy) == expected


def test_the_new_layer_is_drawn_from_the_seed(teacher: Denoiser) -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(TwoTimeGenerator.from_denoiser(teacher).model.map_target.layer0.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
