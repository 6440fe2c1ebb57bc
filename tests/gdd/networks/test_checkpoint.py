"""Networks on disk: what comes back, and one sentence for what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gdd.config.architecture import Architecture
from gdd.config.freeze import FREEZE_POLICIES, frozen_names
from gdd.errors import UserError
from gdd.networks.checkpoint import load_denoiser, load_generator, one_step_from_denoiser, save_network
from gdd.networks.preconditioning import Denoiser, OneStepGenerator
from gdd.networks.two_time import TwoTimeGenerator
from gdd.networks.weights import load_weights, save_weights

ARCH = Architecture(
    model_type="SongUNet",
    img_resolution=8,
    img_channels=1,
    augment_dim=3,
    model_channels=16,
    channel_mult=(1,),
    num_blocks=1,
    embedding_type="fourier",
)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_network(tmp_path / "teacher.safetensors", Denoiser(ARCH), title="a teacher", images=12)
    return tmp_path / "teacher.safetensors"


def test_a_denoiser_comes_back(teacher: Path) -> None:
    weights, description = load_weights(teacher)
    loaded = load_denoiser(teacher, torch.bfloat16)
    assert (description["title"], description["images"], description["kind"]) == ("a teacher", 12, "denoiser")
    assert (loaded.arch, loaded.dtype, loaded.training) == (ARCH, torch.bfloat16, False)
    state = loaded.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())
    assert all(
        parameter.requires_grad and parameter.device.type == "cpu" for parameter in loaded.parameters()
    )


@pytest.mark.parametrize("kind", [OneStepGenerator, TwoTimeGenerator])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_generator_comes_back(teacher: Path, kind: type[OneStepGenerator], steps: int) -> None:
    generator = kind.from_denoiser(load_denoiser(teacher), steps=steps).eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter += 0.01
    path = teacher.with_name("student.safetensors")
    save_network(path, generator, images=5)
    name = "generator" if kind is OneStepGenerator else "two-time generator"
    expected = {"images": 5, "kind": name, "arch": generator.arch.model_dump(mode="json")}
    assert load_weights(path)[1] == expected | ({"steps": 3} if steps == 3 else {})
    loaded, z = load_generator(path), torch.randn(2, steps, 8, 8)
    assert type(loaded) is kind
    torch.testing.assert_close(loaded(z), generator(z))
    with pytest.raises(UserError, match=f"holds a {name}, but a denoiser is needed here"):
        load_denoiser(path)


def test_the_wrong_kind_is_named(teacher: Path) -> None:
    assert type(one_step_from_denoiser(teacher)) is OneStepGenerator
    with pytest.raises(UserError, match=r"teacher.safetensors holds a denoiser, but a generator is needed"):
        load_generator(teacher)
    save_weights(teacher, {"a": torch.zeros(1)}, {"what": "projection"})
    with pytest.raises(UserError, match="holds no network"):
        load_denoiser(teacher)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("drop", "lacks model.map_layer0.bias: its weights do not fit the architecture it names"),
        ("add", "has model.extra besides"),
        ("reshape", r"has model.map_layer0.bias as \[7\] instead of \[64\]"),
    ],
)
def test_weights_that_do_not_fit_are_one_sentence(teacher: Path, change: str, sentence: str) -> None:
    weights, description = load_weights(teacher)
    if change == "drop":
        del weights["model.map_layer0.bias"]
    else:
        weights["model.extra" if change == "add" else "model.map_layer0.bias"] = torch.zeros(7)
    save_weights(teacher, weights, description)
    with pytest.raises(UserError, match=sentence):
        load_denoiser(teacher)


def test_a_broken_architecture_is_named(teacher: Path) -> None:
    weights, description = load_weights(teacher)
    save_weights(teacher, weights, {**description, "arch": {**description["arch"], "depth": 1}})
    with pytest.raises(UserError, match=r"teacher.safetensors: unknown key 'depth'"):
        load_denoiser(teacher)


@pytest.mark.parametrize("policy", FREEZE_POLICIES)
def test_policies_freeze_the_same_of_students_with_one_time_and_two(teacher: Path, policy: str) -> None:
    denoiser = load_denoiser(teacher)
    one, two = OneStepGenerator.from_denoiser(denoiser), TwoTimeGenerator.from_denoiser(denoiser)
    names = [name for name, _ in two.named_parameters()]
    assert len([name for name in names if ".map_target." in name]) == 4
    assert frozen_names(names, policy) == frozen_names([name for name, _ in one.named_parameters()], policy)
