"""Networks on disk: what comes back, and one sentence for what does not fit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from gdd.config.architecture import Architecture
from gdd.config.freeze import FREEZE_POLICIES, frozen_names
from gdd.errors import UserError
from gdd.networks.checkpoint import load_denoiser, load_generator, load_weights, save_network, save_weights
from gdd.networks.classifier import SmallClassifier, load_classifier, save_classifier
from gdd.networks.preconditioning import Denoiser, OneStepGenerator, TwoTimeGenerator
from gdd.randomness import seeded_weights

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
BIAS = "model.map_layer0.bias"


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_network(tmp_path / "teacher.safetensors", Denoiser(ARCH), title="a teacher", images=12)
    return tmp_path / "teacher.safetensors"


def test_a_denoiser_comes_back(teacher: Path) -> None:
    weights, description = load_weights(teacher)
    loaded = load_denoiser(teacher)
    assert (description["title"], description["images"], description["kind"]) == ("a teacher", 12, "denoiser")
    assert (loaded.arch, loaded.training) == (ARCH, False)
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
    generator.renoise = False
    save_network(path, generator)
    torch.testing.assert_close(load_generator(path)(z[:, :1]), generator(z[:, :1]))
    with pytest.raises(UserError, match=f"holds a {name}, but a denoiser is needed here"):
        load_denoiser(path)


@pytest.mark.parametrize("architecture", ["plain", "residual"])
def test_a_classifier_comes_back_frozen(tmp_path: Path, architecture: str) -> None:
    with seeded_weights(3):
        net = SmallClassifier(architecture, 4, 1, 10, 8)
    net(torch.randn(16, 1, 8, 8))  # moves the running statistics
    save_classifier(tmp_path / "net.safetensors", net, accuracy=0.5)
    before = torch.get_rng_state()
    loaded = load_classifier(tmp_path / "net.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(loaded(images), net.eval()(images))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert load_weights(tmp_path / "net.safetensors")[1]["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("tensors", "description", "sentence"),
    [
        ({BIAS: None}, {}, f"lacks {BIAS}: its weights do not fit the architecture it names"),
        ({"model.extra": torch.zeros(7)}, {}, "has model.extra besides"),
        ({BIAS: torch.zeros(7)}, {}, rf"has {BIAS} as \[7\] instead of \[64\]"),
        ({}, {"arch": {"depth": 1}}, r"teacher.safetensors: unknown key 'depth'"),
        ({}, {"kind": None}, "holds no network"),
        ({}, {"kind": "classifier"}, "holds a classifier, but a denoiser is needed"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    teacher: Path, tensors: dict[str, Any], description: dict[str, Any], sentence: str
) -> None:
    weights, written = load_weights(teacher)
    changed = {name: tensor for name, tensor in (weights | tensors).items() if tensor is not None}
    save_weights(teacher, changed, written | description)
    with pytest.raises(UserError, match=sentence):
        load_denoiser(teacher)


def test_files_of_another_kind(teacher: Path) -> None:
    with pytest.raises(UserError, match=r"teacher.safetensors holds a denoiser, but a generator is needed"):
        load_generator(teacher)
    with pytest.raises(UserError, match="holds a 'denoiser', not a classifier"):
        load_classifier(teacher)
    teacher.write_bytes(teacher.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read"):
        load_denoiser(teacher)
    with pytest.raises(UserError, match=r"The weights .*nowhere do not exist\."):
        load_denoiser(teacher.with_name("nowhere"))


@pytest.mark.parametrize("header", ["[]", "3", '"x"', "{", "[" * 10_000])
def test_a_description_that_is_no_object(tmp_path: Path, header: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"gdd": header})
    with pytest.raises(UserError, match=r"The description in .*x\.safetensors is no JSON object"):
        load_denoiser(path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": "x"}, "'steps' is 'x'"),
        ({"steps": 0}, "'steps' is 0"),
        ({"renoise": 3}, "'renoise' is 3"),
        ({"one_step": []}, "'one_step' is"),
        ({"one_step": {"level": 1}}, "unknown key 'one_step.level'"),
        ({"one_step": {"sigma": "x"}}, "'one_step.sigma' is 'x'"),
    ],
)
def test_a_generator_that_says_nonsense_of_its_sampling(
    teacher: Path, changes: dict[str, Any], sentence: str
) -> None:
    path = teacher.with_name("student.safetensors")
    save_network(path, OneStepGenerator.from_denoiser(load_denoiser(teacher)))
    weights, written = load_weights(path)
    save_weights(path, weights, written | changes)
    with pytest.raises(UserError) as caught:
        load_generator(path)
    assert f"student.safetensors: {sentence}" in str(caught.value)


@pytest.mark.parametrize("changes", [[], {}, {"width": "x"}, {"width": -1}, {"depth": 1}])
def test_a_classifier_that_says_nonsense_of_its_layers(tmp_path: Path, changes: Any) -> None:
    path = tmp_path / "net.safetensors"
    save_classifier(path, SmallClassifier("plain", 4, 1, 10, 8))
    weights, written = load_weights(path)
    arch = written["arch"] | changes if changes else changes
    save_weights(path, weights, written | {"arch": arch})
    with pytest.raises(UserError, match=r"net\.safetensors: "):
        load_classifier(path)


def test_a_folder_is_no_network(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"The weights {tmp_path} cannot be read"):
        load_weights(tmp_path)


@pytest.mark.parametrize("policy", FREEZE_POLICIES)
def test_policies_freeze_the_same_of_students_with_one_time_and_two(teacher: Path, policy: str) -> None:
    denoiser = load_denoiser(teacher)
    one, two = OneStepGenerator.from_denoiser(denoiser), TwoTimeGenerator.from_denoiser(denoiser)
    names = [name for name, _ in two.named_parameters()]
    assert len([name for name in names if ".map_target." in name]) == 4
    assert frozen_names(names, policy) == frozen_names([name for name, _ in one.named_parameters()], policy)


@pytest.mark.parametrize("length", [2**64 - 1, 2**24 + 1])
def test_the_length_of_a_header_is_bounded(length: int, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{")
    os.truncate(path, 2**33)  # as large a file as it says, on no disk
    with pytest.raises(
        UserError, match=rf"cannot be read \(its header would have {length:,} bytes, more than"
    ):
        load_weights(path)
