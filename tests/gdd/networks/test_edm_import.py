"""Published networks through the whole path: pickle, safetensors, network, images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edm_writer import TINY, TINY_ARGUMENTS, Foreign, Scalar
from torch import Tensor

from gdd.config.architecture import Architecture
from gdd.config.record import parse
from gdd.errors import UserError
from gdd.files import sha256
from gdd.networks.checkpoint import load_denoiser, load_generator, load_weights, save_network
from gdd.networks.edm_import import import_generator, import_network, write_identity
from gdd.networks.preconditioning import Denoiser, OneStepGenerator

Maker = Callable[[bool], Foreign]


@pytest.mark.parametrize(
    ("name", "old", "protocol"),
    [
        ("ddpmpp-cond-16", True, 2),
        pytest.param("ddpmpp-cond-16", False, 4, marks=pytest.mark.slow),
        pytest.param("ncsnpp-uncond-16", True, 3, marks=pytest.mark.slow),
        pytest.param("adm-cond-16", False, 5, marks=pytest.mark.slow),
    ],
)
def test_reference_networks_survive(
    golden: Path, foreign: Maker, tmp_path: Path, name: str, old: bool, protocol: int
) -> None:
    with np.load(golden / "networks" / f"{name}.npz") as file:
        tensors = {key: torch.from_numpy(file[key]) for key in file.files if key != "arch"}
        arguments = json.loads(str(file["arch"]))
    state = {key.removeprefix("state/"): value for key, value in tensors.items() if key.startswith("state/")}
    with torch.device("meta"):
        buffers = {key for key, _ in Denoiser(parse(Architecture, arguments, name)).named_buffers()}
    canary = tmp_path / "canary"
    maker, source = foreign(old), f"open({str(canary)!r}, 'w')\n"
    pickled, imported = tmp_path / "net.pkl", tmp_path / "net.safetensors"
    maker.write(pickled, maker.network(arguments, state, buffers, src=source), protocol)
    import_network(pickled, imported)
    assert not canary.exists()

    denoiser = load_denoiser(imported)
    with torch.no_grad():
        denoised = denoiser(tensors["edm_input"], tensors["sigma"], tensors["labels"])
        generated = OneStepGenerator.from_denoiser(load_denoiser(imported))(tensors["x"], tensors["labels"])
    torch.testing.assert_close(denoised, tensors["edm_output"], atol=2e-6, rtol=0)
    torch.testing.assert_close(generated, tensors["one_step_output"], atol=2e-6, rtol=0)

    # The same file as a generator that others published.
    maker.write(pickled, maker.network(arguments, state, buffers, class_name="GDDPrecond"))
    import_network(pickled, imported, kind="generator")
    with torch.no_grad():
        again = load_generator(imported)(tensors["x"], tensors["labels"])
    torch.testing.assert_close(again, tensors["one_step_output"], atol=2e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("teacher", "protocol"),
    [
        ("edm-cifar10-32x32-cond-ve", 2),
        pytest.param("edm-imagenet-64x64-cond-adm", 4, marks=pytest.mark.thorough),
    ],
)
def test_full_size_teachers_survive(
    golden: Path, foreign: Maker, tmp_path: Path, teacher: str, protocol: int
) -> None:
    facts = json.loads((golden / "edm_teachers.json").read_text())[teacher]
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) for name, shape in facts["tensors"].items()}
    maker = foreign(False)
    pickled, imported = tmp_path / "net.pkl", tmp_path / "net.safetensors"
    maker.write(pickled, maker.network(facts["arch"], state, set(facts["buffers"])), protocol)
    sums = {name: tensor.double().sum() for name, tensor in state.items()}
    del state
    import_network(pickled, imported)
    pickled.unlink()
    found = load_denoiser(imported).state_dict()
    assert list(found) == list(facts["tensors"])
    assert all(torch.equal(found[name].double().sum(), total) for name, total in sums.items())
    imported.unlink()


def test_everything_about_a_file_is_written(tiny: Path) -> None:
    imported, identity = tiny.with_suffix(".safetensors"), tiny.with_suffix(".json")
    arch = import_network(tiny, imported, licence="ours", dataset="digits")
    tensors, description = load_weights(imported)
    assert description == {
        "kind": "denoiser",
        "arch": arch.model_dump(mode="json"),
        "source": {"file": "tiny.pkl", "sha256": sha256(tiny), "key": "ema", "class_name": "EDMPrecond"},
        "licence": "ours",
        "dataset": "digits",
    }
    torch.manual_seed(0)
    expected = Denoiser(arch).state_dict()
    assert expected.keys() == tensors.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())
    assert (arch.label_dim, arch.channel_mult, arch.dropout) == (2, (1, 2), 0.2)

    write_identity(identity, imported)
    first = identity.read_bytes()
    assert json.loads(first)["sha256"] == sha256(imported)
    import_network(tiny, imported, licence="ours", dataset="digits")
    write_identity(identity, imported)
    assert identity.read_bytes() == first  # equal weights, equal file


class Change:
    """The tiny network, taken apart."""

    def __init__(self, maker: Foreign, path: Path) -> None:
        self.maker, self.path = maker, path
        self.arguments: dict[str, Any] = dict(TINY_ARGUMENTS)
        self.build(Architecture(**TINY))
        self.class_name = "EDMPrecond"

    def build(self, arch: Architecture) -> Denoiser:
        torch.manual_seed(0)
        denoiser = Denoiser(arch)
        self.state: dict[str, Tensor] = denoiser.state_dict()
        self.buffers = {name for name, _ in denoiser.named_buffers()}
        return denoiser

    def imported(self, **options: Any) -> Path:
        network = self.maker.network(self.arguments, self.state, self.buffers, self.class_name)
        self.maker.write(self.path / "net.pkl", network)
        import_network(self.path / "net.pkl", self.path / "net.safetensors", **options)
        return self.path / "net.safetensors"

    def refused(self, sentence: str, **options: Any) -> None:
        with pytest.raises(UserError, match=sentence):
            self.imported(**options)
        assert not (self.path / "net.safetensors").exists()


@pytest.fixture
def change(foreign: Maker, tmp_path: Path) -> Change:
    return Change(foreign(False), tmp_path)


def test_types_are_kept_in_the_file_and_converted_at_load(change: Change) -> None:
    change.state = {name: tensor.half() for name, tensor in change.state.items()}
    change.arguments |= {"label_dim": Scalar(2, old=True), "dropout": Scalar(0.25, old=False)}
    imported = change.imported()
    tensors, description = load_weights(imported)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert {tensor.dtype for tensor in load_denoiser(imported).state_dict().values()} == {torch.float32}
    assert (description["arch"]["label_dim"], description["arch"]["dropout"]) == (2, 0.25)


@pytest.mark.slow
def test_a_network_of_96_channels(change: Change) -> None:
    """Levels of 32, 96 and 192: no attention, one head of 96, and three heads of 64."""
    arguments = {"model_type": "DhariwalUNet", "img_resolution": 16, "img_channels": 1, "label_dim": 2}
    change.arguments = {**arguments, "model_channels": 32, "channel_mult": [1, 3, 6], "num_blocks": 1}
    denoiser = change.build(parse(Architecture, change.arguments, "96"))
    assert denoiser.model.enc["16x16_block0"].heads == 0
    assert denoiser.model.enc["8x8_block0"].heads == 1
    assert denoiser.model.dec["4x4_in0"].heads == 3
    x, labels = torch.randn(2, 1, 16, 16), torch.eye(2)
    loaded = load_denoiser(change.imported())
    assert torch.equal(loaded(x, 3.0, labels), denoiser.eval()(x, 3.0, labels))


@pytest.mark.parametrize(
    ("class_name", "step"),
    [
        ("GDDPrecond", {"sigma": 80.0, "coefficients": "boundary"}),
        ("EDMPrecond", {"sigma": 2.5, "coefficients": "edm"}),
    ],
)
def test_a_generator_loses_augmentation_and_tells_its_step(
    change: Change, class_name: str, step: dict[str, Any]
) -> None:
    change.class_name = class_name
    imported = change.imported(kind="generator")
    tensors, description = load_weights(imported)
    assert (description["kind"], description["one_step"]) == ("generator", step)
    assert not [name for name in tensors if "map_augment" in name]
    assert (description["arch"]["augment_dim"], description["arch"]["dropout"]) == (0, 0.0)
    generator = load_generator(imported)
    save_network(change.path / "copy.safetensors", generator)
    import_generator(change.path / "copy.safetensors", imported, key="ema", licence="ours", dataset="digits")
    facts = load_weights(imported)[1]
    assert (facts["dataset"], facts["licence"]) == ("digits", "ours")
    again, z, labels = load_generator(imported), torch.randn(3, 1, 8, 8), torch.eye(2)[[0, 1, 0]]
    assert again.one_step._asdict() == step
    with torch.no_grad():
        expected = generator.forward_at(step["sigma"] * z, step["sigma"], labels)
        if class_name == "EDMPrecond":  # SiD (arXiv:2404.04057): the denoiser at sigma_init = 2.5
            expected = load_denoiser(change.imported())(2.5 * z, 2.5, labels)
        assert torch.equal(again(z, labels), expected)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"depth": 3}, r"net.pkl: unknown key 'depth'; allowed here"),
        ({"model_type": "DiT"}, r"net.pkl: 'model_type' is 'DiT'"),
        ({"model_type": ["SongUNet"]}, r"'model_type' is \['SongUNet'\]"),
        ({"sigma_data": 1.0}, r"sigma_data must be 0.5"),
        ({"model_channels": "wide"}, r"'model_channels' is 'wide'"),
        ({"num_blocks": 4096}, r"too few tensors"),
        ({"model_channels": 4096}, r"as \[\d+(, \d+)*\] instead of \[\d+(, \d+)*\]"),
        ({"model_channels": ...}, r"instead of"),  # EDM falls back to 128
        ({"label_dim": 10**9}, r"with a 'label_dim' that no published one has"),
        ({"num_blocks": 2**70}, r"with a 'num_blocks' that no published one has"),
        ({"channel_mult": [1] * 100}, r"with a 'channel_mult' that no published one has"),
        ({"channel_mult": [10**9]}, r"with a 'channel_mult' that no published one has"),
        ({"channel_mult": [[1]]}, r"'channel_mult.0' is \[1\]"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(change: Change, arguments: dict[str, Any], sentence: str) -> None:
    given = change.arguments | arguments
    change.arguments = {name: value for name, value in given.items() if value is not ...}
    change.refused(sentence)


def test_tensors_that_do_not_fit(change: Change) -> None:
    bias = change.state.pop("model.map_layer0.bias")
    change.refused("lacks model.map_layer0.bias: its weights do not fit the architecture it names")
    for value in (bias.long(), torch.full_like(bias, float("nan")), torch.full_like(bias, float("-inf"))):
        change.state["model.map_layer0.bias"] = value
        change.refused("has NaN, infinity or integers in model.map_layer0.bias; get the file anew")


def test_the_architecture_that_is_expected(change: Change) -> None:
    # What only training knows may differ.
    change.imported(expected=Architecture(**{**TINY, "dropout": 0.0, "augment_dim": 0}))
    (change.path / "net.safetensors").unlink()
    change.refused(
        "'model_channels' is 8, but the teacher's file says 16",
        expected=Architecture(**{**TINY, "model_channels": 16}),
    )


def test_another_class_or_key(change: Change) -> None:
    change.class_name = "GDDPrecond"
    change.refused("holds a GDDPrecond, but a denoiser is imported from EDMPrecond;")
    network = change.maker.network(change.arguments, change.state, change.buffers)
    pickled = change.maker.write(change.path / "net.pkl", network, key="net")
    with pytest.raises(UserError, match=r"holds no 'ema' but net, loss_fn, augment_pipe, dataset_kwargs;"):
        import_network(pickled, change.path / "out.safetensors")
    import_network(pickled, change.path / "out.safetensors", key="net")
    assert load_weights(change.path / "out.safetensors")[1]["source"]["key"] == "net"
    with pytest.raises(UserError, match=r"has something else in the place of a module; check the key"):
        import_network(pickled, change.path / "out.safetensors", key="dataset_kwargs")
