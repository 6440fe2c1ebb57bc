"""The U-Nets: names and shapes of EDM's checkpoints, and how a fresh network behaves."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gdd.config.architecture import Architecture
from gdd.config.record import parse
from gdd.networks import layers, unet
from gdd.networks.classifier import SmallClassifier
from gdd.networks.layers import BOXES, attend, downsample, positional_features, separable_filter, upsample
from gdd.networks.preconditioning import Denoiser
from gdd.networks.unet import build_unet

NCSNPP = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": (1, 3, 3, 1),
}


def tiny(model_type: str = "SongUNet", **changes: Any) -> Architecture:
    values: dict[str, Any] = {
        "model_type": model_type,
        "img_resolution": 8,
        "img_channels": 1,
        "model_channels": 64 if model_type == "DhariwalUNet" else 16,
        "channel_mult": (1, 2),
        "num_blocks": 1,
        "attn_resolutions": (4,),
        **changes,
    }
    return Architecture(**values)


VARIANTS = {"ddpmpp": tiny(), "ncsnpp": tiny(**NCSNPP), "adm": tiny("DhariwalUNet")}


def randomised(network: nn.Module) -> nn.Module:
    """Give every parameter weight, so that no branch is hidden by its initialisation near zero."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return network.eval()


@pytest.mark.slow
def test_state_dicts_are_those_of_the_published_checkpoints(golden: Path) -> None:
    teachers = json.loads((golden / "edm_teachers.json").read_text())
    assert len(teachers) == 7
    for teacher, expected in teachers.items():
        with torch.device("meta"):
            network = Denoiser(parse(Architecture, expected["arch"], teacher))
        shapes = [(name, list(tensor.shape)) for name, tensor in network.state_dict().items()]
        assert shapes == list(expected["tensors"].items())
        assert [name for name, _ in network.named_buffers()] == expected["buffers"]
        assert sum(parameter.numel() for parameter in network.parameters()) == expected["n_params"]


@pytest.mark.parametrize(
    ("options", "parameters"), [({}, 748_737), (NCSNPP, 753_153)], ids=["ddpmpp", "ncsnpp"]
)
def test_parameters_of_the_digits_network(options: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        network = build_unet(tiny(model_channels=32, **options))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("arch", VARIANTS.values(), ids=VARIANTS)
def test_a_network_starts_near_zero_and_uses_every_parameter(arch: Architecture) -> None:
    arch = arch.model_copy(update={"label_dim": 3, "augment_dim": 2})
    torch.manual_seed(0)
    network = build_unet(arch)
    inputs = torch.randn(2, 1, 8, 8), torch.rand(2), torch.eye(3)[:2], torch.ones(2, 2)
    assert network(*inputs).shape == (2, 1, 8, 8)
    assert network(*inputs).abs().max() < 1e-3  # a fresh network gives next to nothing
    randomised(network)(*inputs).sum().backward()
    unused = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or parameter.grad.abs().max() == 0
    ]
    assert unused == []


@pytest.mark.parametrize("arch", VARIANTS.values(), ids=VARIANTS)
def test_bfloat16_activations_with_float32_weights(arch: Architecture) -> None:
    network = randomised(build_unet(arch))
    x, noise = torch.randn(2, 1, 8, 8), torch.zeros(2)
    exact, rounded = network(x, noise), network(x.bfloat16(), noise)
    assert rounded.dtype == torch.bfloat16
    assert (rounded - exact).norm() < 0.05 * exact.norm()
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_that_are_cast_at_once_are_cast(
    monkeypatch: pytest.MonkeyPatch, layout: torch.memory_format
) -> None:
    network = randomised(build_unet(VARIANTS["ncsnpp"])).to(memory_format=layout)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("conv0" not in name)  # one of the frozen, beside trained ones
    results = []
    for at_once in (True, False):
        if not at_once:
            monkeypatch.setattr(unet, "cast_at_once", lambda *_: contextlib.nullcontext())
        network.zero_grad()
        y = network(torch.linspace(-1, 1, 128).view(2, 1, 8, 8).bfloat16(), torch.zeros(2))
        y.float().square().sum().backward()
        results.append([y, *(p.grad for p in network.parameters() if p.grad is not None)])
    assert len(results[0]) > 50
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)
        # Else the optimizer would go through memory twice.
        assert found.ndim < 4 or found.is_contiguous(memory_format=layout)


def test_layers_that_multiply_together_do_what_each_does(monkeypatch: pytest.MonkeyPatch) -> None:
    linear = [layers.Linear(5, outputs, layers.fan_in).double() for outputs in (3, 4, 2)]
    linear[1].requires_grad_(False)
    x, results = torch.randn(6, 5, dtype=torch.float64, requires_grad=True), []
    for alone in (True, False):
        monkeypatch.setattr(layers, "one_by_one", lambda _, alone=alone: alone)
        outputs = layers.apply_all(linear, x, torch.float64)
        trained = [parameter for layer in (linear[0], linear[2]) for parameter in layer.parameters()]
        gradients = torch.autograd.grad(sum(y.pow(3).sum() for y in outputs), [x, *trained])  # type: ignore[arg-type]
        results.append([*outputs, *gradients])
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)


def test_dropout_and_label_dropout_act_in_training_only() -> None:
    network = randomised(build_unet(tiny(label_dim=2, dropout=0.5)))
    inputs = (torch.randn(2, 1, 8, 8), torch.zeros(2), torch.eye(2))
    assert torch.equal(network(*inputs), network(*inputs))
    network.train()
    assert not torch.equal(network(*inputs), network(*inputs))

    network = randomised(build_unet(tiny(label_dim=2, label_dropout=0.999999)))
    without = network(*inputs[:2], torch.zeros(2, 2))
    assert not torch.allclose(network(*inputs), without)
    assert torch.equal(network.train()(*inputs), without)


def test_labels() -> None:
    x, noise, none = torch.randn(2, 1, 8, 8), torch.zeros(2), torch.zeros(2, 0)
    unconditional, augmented = build_unet(tiny()), randomised(build_unet(tiny(augment_dim=9)))
    assert torch.equal(unconditional(x, noise), unconditional(x, noise, none))
    assert torch.equal(augmented(x, noise), augmented(x, noise, None, torch.zeros(2, 9)))
    for needs_more in (build_unet(tiny(label_dim=2)), build_unet(tiny(), two_times=True)):
        with pytest.raises(AssertionError):
            needs_more(x, noise)


@pytest.mark.parametrize("taps", [(1,), (1, 1), (1, 2, 1), (1, 3, 3, 1), (1, 4, 6, 4, 1), (1, 2, 3, 3, 2, 1)])
def test_resampling_halves_and_doubles_and_keeps_a_constant(taps: tuple[int, ...]) -> None:
    kernel, padding = separable_filter(taps), (len(taps) - 1) // 2
    x = torch.full((1, 2, 16, 16), 3.0)
    down, up = downsample(x, kernel, padding), upsample(x, kernel, padding)
    assert down.shape == (1, 2, 8, 8)
    assert up.shape == (1, 2, 32, 32)
    torch.testing.assert_close(down[..., 2:-2, 2:-2], torch.full((1, 2, 4, 4), 3.0))
    if len(taps) > 1:
        torch.testing.assert_close(up[..., 4:-4, 4:-4].mean(), torch.tensor(3.0))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
@pytest.mark.parametrize("taps", BOXES)
def test_boxes_are_the_filters(
    taps: tuple[int, ...], size: tuple[int, int], layout: torch.memory_format
) -> None:
    kernel, padding = separable_filter(taps).double(), (len(taps) - 1) // 2
    x = torch.randn(2, 3, *size, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_(True)
    for resample, margin in ((downsample, padding), (downsample, 0), (upsample, padding)):
        results = []
        for boxes in (None, BOXES[taps]):
            y = resample(x, kernel, margin, boxes)
            (gradient,) = torch.autograd.grad((y * torch.arange(y.numel()).view(y.shape).sin()).sum(), x)
            results.append((y, gradient))
        torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("taps", [(1, 2, 1), (1, 2, 3, 3, 2, 1)])
def test_networks_of_other_filters_run(taps: tuple[int, ...]) -> None:
    network = build_unet(tiny(**{**NCSNPP, "resample_filter": taps}))
    assert network(torch.randn(1, 1, 8, 8), torch.zeros(1)).shape == (1, 1, 8, 8)


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_softmax_of_scaled_products(heads: int) -> None:
    qkv = torch.randn(2, 3 * 8, 3, 3)
    query, key, value = qkv.reshape(2 * heads, 8 // heads, 3, 9).unbind(2)
    weights = torch.einsum("ncq,nck->nqk", query, key).div(math.sqrt(8 // heads)).softmax(dim=2)
    expected = torch.einsum("nqk,nck->ncq", weights, value).reshape(2, 8, 3, 3)
    torch.testing.assert_close(attend(qkv, heads), expected)


def test_attention_has_second_derivatives_on_request() -> None:
    qkv = torch.randn(1, 12, 2, 2, requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH):
        (gradient,) = torch.autograd.grad(attend(qkv, 1).square().sum(), qkv, create_graph=True)
        gradient.square().sum().backward()
    assert qkv.grad is not None
    assert qkv.grad.abs().max() > 0


def test_frequencies_end_at_a_ten_thousandth() -> None:
    one = torch.ones(1)
    with_end, without = (
        positional_features(one, 16, endpoint=True),
        positional_features(one, 16, endpoint=False),
    )
    torch.testing.assert_close(with_end[0, [8, 15]], torch.tensor([math.sin(1), math.sin(1e-4)]))
    torch.testing.assert_close(without[0, 15], torch.tensor(math.sin(1e-4 ** (7 / 8))))


BUILD = """
import json, sys, torch
from gdd.config.architecture import Architecture
from gdd.config.record import parse
from gdd.networks.unet import build_unet
before = set(sys.modules)
for text in sys.argv[1:]:
    with torch.device("meta"):
        build_unet(parse(Architecture, json.loads(text), "here"))
print(len(set(sys.modules) - before))
"""


@pytest.mark.slow
def test_building_without_memory_does_not_import_the_compiler() -> None:
    texts = [arch.canonical() for arch in VARIANTS.values()]
    done = subprocess.run([sys.executable, "-c", BUILD, *texts], check=True, capture_output=True)
    assert int(done.stdout) < 50  # the compiler's are hundreds, which take seconds at every start


@pytest.mark.parametrize("architecture", ["plain", "residual"])
@pytest.mark.parametrize(("channels", "resolution"), [(1, 8), (3, 32), (3, 12)])
def test_small_classifiers_have_three_taps_that_halve_the_resolution(
    architecture: str, channels: int, resolution: int
) -> None:
    net = SmallClassifier(architecture, 4, channels, 10, resolution).eval()
    images = torch.rand(2, channels, resolution, resolution) * 2 - 1
    assert [tap.shape[1] for tap in net.taps(images)] == list(net.channels)
    assert [tap.shape[2] for tap in net.taps(images)] == [resolution, resolution // 2, resolution // 4]
    assert net.features(images).shape == (2, net.feature_channels)
    assert net.feature_channels == {"plain": 16, "residual": 64}[architecture]
    assert torch.equal(net.logits(net.features(images)), net(images))
    assert net(images).shape == (2, 10)
