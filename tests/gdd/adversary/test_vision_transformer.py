from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from published_files import assert_close, assert_passes_gradients, random_state, timm_state, write_augreg
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from gdd.adversary.discriminator import build_discriminator
from gdd.adversary.published_weights import WeightsProblem
from gdd.adversary.vision_transformer import (
    TAPS,
    VisionTransformerNetwork,
    deit_base_distilled_patch16_224,
    load_augreg,
    vit_base_patch16_224,
)

pytestmark = pytest.mark.slow


def tiny(
    kind: type[VisionTransformer] = VisionTransformer, size: int = 32, classes: int = 5
) -> VisionTransformer:
    vit = kind(img_size=size, patch_size=16, embed_dim=12, depth=12, num_heads=2, num_classes=classes)
    vit.load_state_dict(random_state(vit.state_dict()))
    return vit.eval()


@pytest.mark.parametrize("kind", [VisionTransformer, VisionTransformerDistilled])
def test_taps_are_the_tokens_after_four_blocks_without_the_leading_ones(
    kind: type[VisionTransformer],
) -> None:
    images, whole = torch.randn(2, 3, 32, 32), tiny(kind)
    leading = 2 if kind is VisionTransformerDistilled else 1
    grids = []
    with torch.no_grad():
        x = whole._pos_embed(whole.patch_embed(images))
        for index, block in enumerate(whole.blocks):
            x = block(x)
            if index in (2, 5, 8, 11):
                # Token t is the patch in row t // 2 and column t % 2.
                grids.append(x[:, leading:].transpose(1, 2).unflatten(2, (2, 2)))
    net = VisionTransformerNetwork(tiny(kind), seed=3)
    mixed = net.reassembly
    expected = [
        functional.conv_transpose2d(mixed[0][0](grids[0]), mixed[0][1].weight, mixed[0][1].bias, stride=4),
        functional.conv_transpose2d(mixed[1][0](grids[1]), mixed[1][1].weight, mixed[1][1].bias, stride=2),
        mixed[2](grids[2]),
        functional.conv2d(mixed[3][0](grids[3]), mixed[3][1].weight, mixed[3][1].bias, stride=2, padding=1),
    ]
    assert_close(net.taps(images), expected)
    assert [name for name, _ in net.frozen.named_parameters() if name.startswith(("head", "norm."))] == []


def test_taps_are_those_of_the_published_discriminator(golden: Path) -> None:
    pinned = json.loads((golden / "discriminator" / "backbones.json").read_text())
    pinned = pinned["deit_base_distilled_patch16_224"]
    net = VisionTransformerNetwork(tiny(VisionTransformerDistilled, 224), seed=0)
    taps = net(torch.randn(1, 3, 64, 64))
    assert list(net.channels) == [tap.shape[1] for tap in taps] == pinned["channels"]
    assert [tap.shape[2] / 224 for tap in taps] == [tap.shape[3] / 224 for tap in taps] == pinned["res_mult"]


def test_gradients_pass_and_r1_chooses_attention_that_it_can_differentiate_twice() -> None:
    net = VisionTransformerNetwork(tiny(), seed=0).double()
    assert_passes_gradients(net, torch.rand(1, 3, 8, 8, dtype=torch.float64) * 2 - 1)


def test_random_convolutions_depend_on_the_seed_alone_and_belong_to_the_discriminators_state() -> None:
    vit, before = tiny(), torch.get_rng_state()
    nets = [VisionTransformerNetwork(vit, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    weights = [nn.utils.parameters_to_vector(net.reassembly.parameters()) for net in nets]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    first, second = (
        build_discriminator(
            {"vit": net}, head="local", projection_channels=4, head_channels=4, group=2, seed=0
        )
        for net in nets[1:]
    )
    kept = {name for name in first.trainable_state() if name.startswith("backbones.")}
    assert kept == {f"backbones.vit.reassembly.{name}" for name in nets[0].reassembly.state_dict()}
    second.load_trainable_state(first.trainable_state())
    assert torch.equal(nn.utils.parameters_to_vector(nets[2].reassembly.parameters()), weights[0])


def test_reads_augregs_npz(tmp_path: Path) -> None:
    whole = tiny()
    path = write_augreg(tmp_path / "vit.npz", whole.state_dict(), heads=2)
    loaded = tiny()
    for tensor in loaded.state_dict().values():
        tensor.fill_(torch.nan)
    load_augreg(loaded, path)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in whole.state_dict().items())


def test_refuses_another_npz(tmp_path: Path) -> None:
    path = write_augreg(tmp_path / "vit.npz", tiny(size=48).state_dict(), heads=2)
    with pytest.raises(
        WeightsProblem, match=r"another network's .* 'Transformer/posembed_input/pos_embedding'"
    ):
        load_augreg(tiny(), path)  # timm would interpolate
    content = path.read_bytes()
    for damaged in (b"", b"<html>", content[:-200]):
        path.write_bytes(damaged)
        with pytest.raises(WeightsProblem, match="cannot be read as the weights of a vision transformer"):
            load_augreg(tiny(), path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(WeightsProblem, match="cannot be read"):
        load_augreg(tiny(), tmp_path / "array.npy")
    state = tiny().state_dict()
    state["blocks.3.mlp.fc1.bias"] = torch.full_like(state["blocks.3.mlp.fc1.bias"], torch.nan)
    with pytest.raises(WeightsProblem, match=r"another network's .* 'blocks\.3\.mlp\.fc1\.bias'"):
        load_augreg(tiny(), write_augreg(path, state, heads=2))


@pytest.mark.slow
@pytest.mark.parametrize("distilled", [True, False])
def test_the_published_sizes(tmp_path: Path, distilled: bool) -> None:
    name = "deit_base_distilled_patch16_224" if distilled else "vit_base_patch16_224"
    state = timm_state(name)
    if distilled:
        net = deit_base_distilled_patch16_224(state, seed=0)
    else:
        path = write_augreg(tmp_path / "vit.npz", state, heads=12)
        net = vit_base_patch16_224(path, seed=0)
        path.unlink()
    with torch.device("meta"):
        whole = timm.create_model(name, pretrained=False)
    whole.load_state_dict(state, assign=True)
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        grids = whole.eval().forward_intermediates(
            net.prepare(images), indices=list(TAPS), intermediates_only=True
        )
        assert_close(net(images), [mix(grid) for mix, grid in zip(net.reassembly, grids, strict=True)])
    assert not any(tensor.is_meta for tensor in [*net.parameters(), *net.buffers()])
    assert_passes_gradients(net, images)
