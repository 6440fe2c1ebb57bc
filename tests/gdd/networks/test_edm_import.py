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
from gdd.diffusion.sampler import heun_sample
from gdd.errors import UserError
from gdd.files import sha256
from gdd.networks.checkpoint import load_denoiser, load_generator, one_step_from_denoiser, save_network
from gdd.networks.edm_import import import_network
from gdd.networks.preconditioning import Denoiser
from gdd.networks.weights import load_weights

TEACHERS = [
    "edm-cifar10-32x32-uncond-ve",
    "edm-cifar10-32x32-cond-ve",
    "edm-cifar10-32x32-cond-vp",
    "edm-ffhq-64x64-uncond-ve",
    "edm-afhqv2-64x64-uncond-ve",
    "edm-afhqv2-64x64-uncond-vp",
    "edm-imagenet-64x64-cond-adm",
]
Maker = Callable[[bool], Foreign]


@pytest.mark.parametrize(
    ("name", "old"),
    [
        ("ddpmpp-cond-16", False),
        ("ddpmpp-cond-16", True),
        ("ncsnpp-uncond-16", True),
        ("adm-cond-16", False),
    ],
)
def test_reference_networks_survive(
    golden: Path, foreign: Maker, tmp_path: Path, name: str, old: bool
) -> None:
    with np.load(golden / "networks" / f"{name}.npz") as file:
        tensors = {key: torch.from_numpy(file[key]) for key in file.files if key != "arch"}
        arguments = json.loads(str(file["arch"]))
    state = {key.removeprefix("state/"): value for key, value in tensors.items() if key.startswith("state/")}
    with torch.device("meta"):
        buffers = {key for key, _ in Denoiser(parse(Architecture, arguments, name)).named_buffers()}
    canary = tmp_path / "canary"
    maker, source = foreign(old), f"open({str(canary)!r}, 'w')\n"
    pickled = maker.write(
        tmp_path / "net.pkl", maker.network(arguments, state, buffers, src=source), 3 if old else 4
    )
    imported = tmp_path / "net.safetensors"
    import_network(pickled, imported)
    assert not canary.exists()

    denoiser = load_denoiser(imported)
    with torch.no_grad():
        denoised = denoiser(tensors["edm_input"], tensors["sigma"], tensors["labels"])
        generated = one_step_from_denoiser(imported)(tensors["x"], tensors["labels"])
        sampled = heun_sample(denoiser, tensors["x"], tensors["labels"], steps=6)
    torch.testing.assert_close(denoised, tensors["edm_output"], atol=2e-6, rtol=0)
    torch.testing.assert_close(generated, tensors["one_step_output"], atol=2e-6, rtol=0)
    torch.testing.assert_close(sampled.float(), tensors["heun6_output"].float(), atol=2e-5, rtol=0)

    # The same file as a generator that others published.
    maker.write(pickled, maker.network(arguments, state, buffers, class_name="GDDPrecond"))
    import_network(pickled, imported, kind="generator")
    with torch.no_grad():
        again = load_generator(imported)(tensors["x"], tensors["labels"])
    torch.testing.assert_close(again, tensors["one_step_output"], atol=2e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("teacher", TEACHERS)
def test_full_size_teachers_survive(golden: Path, foreign: Maker, tmp_path: Path, teacher: str) -> None:
    facts = json.loads((golden / "edm_teachers.json").read_text())[teacher]
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(shape, generator=generator) if shape else torch.randn((), generator=generator)
        for name, shape in facts["tensors"].items()
    }
    maker = foreign(False)
    pickled = maker.write(tmp_path / "net.pkl", maker.network(facts["arch"], state, set(facts["buffers"])))
    sums = {name: tensor.double().sum() for name, tensor in state.items()}
    del state
    imported = tmp_path / "net.safetensors"
    import_network(pickled, imported)
    pickled.unlink()
    found = load_denoiser(imported).state_dict()
    assert list(found) == list(facts["tensors"])
    assert all(torch.equal(found[name].double().sum(), total) for name, total in sums.items())
    imported.unlink()


def test_everything_about_a_file_is_written(tiny: Path) -> None:
    imported = tiny.with_suffix(".safetensors")
    arch = import_network(tiny, imported, licence="ours")
    tensors, description = load_weights(imported)
    assert description == {
        "kind": "denoiser",
        "arch": arch.model_dump(mode="json"),
        "source": {"file": "tiny.pkl", "sha256": sha256(tiny), "key": "ema", "class_name": "EDMPrecond"},
        "licence": "ours",
    }
    torch.manual_seed(0)
    expected = Denoiser(arch).state_dict()
    assert expected.keys() == tensors.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())
    assert (arch.label_dim, arch.channel_mult, arch.dropout) == (2, (1, 2), 0.2)


class Change:
    """The tiny network, taken apart."""

    def __init__(self, maker: Foreign, path: Path) -> None:
        self.maker, self.path = maker, path
        denoiser = Denoiser(Architecture(**TINY))
        self.arguments: dict[str, Any] = dict(TINY_ARGUMENTS)
        self.state: dict[str, Tensor] = denoiser.state_dict()
        self.buffers = {name for name, _ in denoiser.named_buffers()}
        self.class_name = "EDMPrecond"

    def imported(self, **options: Any) -> Path:
        network = self.maker.network(self.arguments, self.state, self.buffers, self.class_name)
        self.maker.write(self.path / "net.pkl", network)
        import_network(self.path / "net.pkl", self.path / "net.safetensors", **options)
        return self.path / "net.safetensors"


@pytest.fixture
def change(foreign: Maker, tmp_path: Path) -> Change:
    return Change(foreign(False), tmp_path)


def test_half_precision_stays_in_the_file_and_is_converted_at_load(change: Change) -> None:
    change.state = {name: tensor.half() for name, tensor in change.state.items()}
    imported = change.imported()
    assert {tensor.dtype for tensor in load_weights(imported)[0].values()} == {torch.float16}
    assert {tensor.dtype for tensor in load_denoiser(imported).state_dict().values()} == {torch.float32}


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
    assert load_generator(imported)(torch.randn(1, 1, 8, 8), torch.eye(2)[:1]).shape == (1, 1, 8, 8)


def test_a_generator_of_sid_makes_its_step_where_sid_does(change: Change) -> None:
    generator = load_generator(change.imported(kind="generator"))
    denoiser = load_denoiser(change.imported())
    z, labels = torch.randn(3, 1, 8, 8), torch.eye(2)[[0, 1, 0]]
    with torch.no_grad():
        # SiD (arXiv:2404.04057): the denoiser at sigma_init = 2.5.
        torch.testing.assert_close(generator(z, labels), denoiser(2.5 * z, 2.5, labels), rtol=0, atol=0)
        change.class_name = "GDDPrecond"
        ours = load_generator(change.imported(kind="generator"))
        torch.testing.assert_close(ours(z, labels), ours.forward_at(80 * z, 80.0, labels), rtol=0, atol=0)
        assert not torch.allclose(ours(z, labels), generator(z, labels))


def test_a_published_generator_keeps_its_step_when_saved_again(change: Change) -> None:
    generator = load_generator(change.imported(kind="generator"))
    save_network(change.path / "copy.safetensors", generator)
    assert load_generator(change.path / "copy.safetensors").one_step == (2.5, "edm")


def test_numpy_numbers_among_the_arguments(change: Change) -> None:
    change.arguments |= {"label_dim": Scalar(2, old=True), "dropout": Scalar(0.25, old=False)}
    description = load_weights(change.imported())[1]
    assert (description["arch"]["label_dim"], description["arch"]["dropout"]) == (2, 0.25)


def test_what_edm_falls_back_to(change: Change) -> None:
    for name in ("model_channels", "channel_mult"):
        del change.arguments[name]
    # It would be 128 channels, which the small tensors do not have.
    with pytest.raises(UserError, match=r"has too few tensors for its|instead of"):
        change.imported()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"depth": 3}, r"net.pkl: unknown key 'depth'; allowed here"),
        ({"model_type": "DiT"}, r"net.pkl: 'model_type' is 'DiT'"),
        ({"sigma_data": 1.0}, r"sigma_data must be 0.5"),
        ({"model_channels": "wide"}, r"'model_channels' is 'wide'"),
        ({"num_blocks": 60_000}, r"too few tensors"),
        ({"num_blocks": 20}, r"too few tensors"),
        ({"channel_mult": [1] * 4}, r"too few tensors|lacks|besides|instead of"),
        ({"model_channels": 60_000}, r"too few tensors"),
        ({"model_channels": 2**40}, r"'model_channels' among its constructor's arguments"),
        ({"channel_mult": [[1]]}, r"'channel_mult' among its constructor's arguments"),
        ({"channel_mult": [1] * 65}, r"'channel_mult' among its constructor's arguments"),
        ({"model_channels": 16}, r"has model\.\S+ as \[\d+(, \d+)*\] instead of"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_that_make_no_sense(change: Change, arguments: dict[str, Any], sentence: str) -> None:
    change.arguments |= arguments
    with pytest.raises(UserError, match=sentence):
        change.imported()
    assert not (change.path / "net.safetensors").exists()


def test_tensors_that_do_not_fit(change: Change) -> None:
    bias = change.state.pop("model.map_layer0.bias")
    with pytest.raises(UserError, match=r"lacks the tensor model.map_layer0.bias: weights and constr"):
        change.imported()
    change.state |= {"model.map_layer0.bias": bias, "model.extra": bias}
    with pytest.raises(UserError, match=r"has a tensor model.extra besides"):
        change.imported()
    del change.state["model.extra"]
    change.state["model.map_layer0.bias"] = bias.long()
    with pytest.raises(UserError, match=r"has model.map_layer0.bias as torch.int64"):
        change.imported()


def test_other_preconditionings_are_refused(change: Change) -> None:
    change.class_name = "VPPrecond"
    with pytest.raises(UserError, match=r"holds a VPPrecond, but a denoiser is imported from EDMPrecond;"):
        change.imported()
    change.class_name = "GDDPrecond"
    with pytest.raises(UserError, match=r"holds a GDDPrecond, but a denoiser"):
        change.imported()


def test_another_key(change: Change) -> None:
    network = change.maker.network(change.arguments, change.state, change.buffers)
    pickled = change.maker.write(change.path / "net.pkl", network, key="net")
    with pytest.raises(UserError, match=r"holds no 'ema' but net, loss_fn, augment_pipe, dataset_kwargs;"):
        import_network(pickled, change.path / "out.safetensors")
    import_network(pickled, change.path / "out.safetensors", key="net")
    assert load_weights(change.path / "out.safetensors")[1]["source"]["key"] == "net"
    with pytest.raises(UserError, match=r"has something else in the place of a network"):
        import_network(pickled, change.path / "out.safetensors", key="dataset_kwargs")


def test_the_command(tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from click.testing import CliRunner

    from gdd.cli import cli

    imported = tiny.with_suffix(".safetensors")
    with caplog.at_level("INFO"):
        done = CliRunner().invoke(cli, ["import-teacher", str(tiny), str(imported)])
    assert done.exit_code == 0, done.exception
    assert "tiny.safetensors: a denoiser of 8x8 images, 2 classes." in caplog.text
    assert load_weights(imported)[1]["licence"] == "CC BY-NC-SA 4.0 (NVIDIA EDM)"


def test_the_command_checks_the_record_and_writes_what_is_watched(tiny: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from gdd.cli import cli

    architecture = {**TINY_ARGUMENTS, "dropout": 0.0, "augment_dim": 0}  # what only training knows may differ
    record = {"title": "T", "dataset": "d", "published": "x", "architecture": architecture}
    weights, identity = tmp_path / "net.safetensors", tmp_path / "net.json"

    def call(record: dict[str, Any]) -> Any:
        options = ["--record", json.dumps(record), "--identity", str(identity), "--licence", "theirs"]
        return CliRunner().invoke(cli, ["import-teacher", str(tiny), str(weights), *options])

    assert call(record).exit_code == 0
    told = json.loads(identity.read_text())
    assert told["sha256"] == sha256(weights)
    assert (told["kind"], told["licence"], told["source"]["file"]) == ("denoiser", "theirs", "tiny.pkl")
    first = identity.read_bytes()
    assert call(record).exit_code == 0
    assert identity.read_bytes() == first  # equal weights, equal file

    weights.unlink()
    refused = call({**record, "architecture": {**architecture, "model_channels": 16}}).exception
    assert "'model_channels' is 8, but the teacher's file says 16" in str(refused)
    assert not weights.exists()
