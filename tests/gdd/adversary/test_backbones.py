"""Published backbones by timm against an independent reading of the networks."""

from __future__ import annotations

import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from random_weights import narrow_vgg, published_shapes, published_state, random_state, write_augreg
from torch import Tensor, nn
from torch.nn import functional

from gdd.adversary.backbones import (
    BLOCKS,
    PUBLISHED,
    TransformerBackbone,
    load_published,
    published_backbone,
)
from gdd.adversary.discriminator import build_discriminator
from gdd.adversary.published_weights import WeightsProblem, read_augreg
from gdd.config.recipe import Heads

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIGNED = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NORMALISATION = {  # what the networks were trained on
    "vgg16_bn": IMAGENET,
    "tf_efficientnet_lite0": SIGNED,
    "tf_efficientnet_b0_ns": IMAGENET,
    "deit_base_distilled_patch16_224": IMAGENET,
    "vit_base_patch16_224": SIGNED,
}
CONVOLUTIONAL = (
    "tf_efficientnet_lite0",
    pytest.param("tf_efficientnet_b0_ns", marks=pytest.mark.slow),
    "vgg16_bn",
)


def assert_close(taps: list[Tensor], expected: list[Tensor]) -> None:
    """Assert that each tap is right to within a fraction of its largest value, and not trivial."""
    for tap, wanted in zip(taps, expected, strict=True):
        assert tap.shape == wanted.shape
        assert wanted.std() > 1e-3
        assert (tap - wanted).abs().max() < 1e-5 * wanted.abs().max()


def stages(name: str, state: dict[str, Tensor]) -> list[nn.Sequential]:
    """Return the publisher's own network, cut where Projected GAN takes its features."""
    if name == "vgg16_bn":
        net: Any = torchvision.models.vgg16_bn(weights=None, init_weights=False)
        net.classifier = nn.Linear(1, 1)
        layers, starts = list(net.features), (0, 13, 23, 33, 43)
    else:
        net = timm.create_model(name.removesuffix("_ns"), pretrained=False)
        layers, starts = [net.conv_stem, net.bn1, *net.blocks], (0, 4, 5, 7, 9)
    net.load_state_dict(state)
    net.eval()
    return [nn.Sequential(*layers[a:b]) for a, b in itertools.pairwise(starts)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVOLUTIONAL)
@torch.no_grad()
def test_a_convolutional_network_folded_gives_the_published_ones_taps(name: str) -> None:
    with narrow_vgg():
        state = published_state(name)
        backbone, theirs = published_backbone(name, state, seed=0), stages(name, state)
    x = torch.randn(1, 3, 32, 32)
    taps = backbone.taps(x)
    expected = []
    for stage in theirs:
        x = stage(x)
        expected.append(x.clone())  # the next stage may work in place
    assert_close(taps, expected)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16_bn", "tf_efficientnet_lite0"])
@torch.no_grad()
def test_the_releases_statistics_are_a_tenth_of_those_of_zeros(name: str) -> None:
    """By PyTorch's definition: 0.9 of the running statistics and 0.1 of the batch's, its variance unbiased."""
    with narrow_vgg():
        state = published_state(name)
        backbone, theirs = published_backbone(name, state, 0, "release"), stages(name, state)
        published = published_backbone(name, state, 0)
    given: dict[nn.Module, Tensor] = {}
    norms = [module for stage in theirs for module in stage.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 0.0
        norm.register_forward_pre_hook(lambda norm, inputs: given.update({norm: inputs[0].clone()}))
    x = torch.zeros(1, 3, 256, 256)
    for stage in theirs:
        x = stage(x)
    assert len(given) == len(norms) == {"vgg16_bn": 13, "tf_efficientnet_lite0": 48}[name]
    for norm in norms:
        variance, mean = torch.var_mean(given[norm], dim=(0, 2, 3), correction=1)
        norm.running_mean.mul_(0.9).add_(0.1 * mean)
        norm.running_var.mul_(0.9).add_(0.1 * variance)
        norm._forward_pre_hooks.clear()
        norm.eval()
    x = torch.randn(1, 3, 32, 32)
    taps, before, expected = backbone.taps(x), published.taps(x), []
    for stage in theirs:
        x = stage(x)
        expected.append(x.clone())
    assert_close(taps, expected)
    assert all((tap - old).norm() > 0.01 * old.norm() for tap, old in zip(taps, before, strict=True))


TINY = {"embed_dim": 12, "num_heads": 2, "img_size": 32}


def tiny(name: str, **options: Any) -> Any:
    """Return timm's network of that name, with few channels and random weights."""
    net = timm.create_model(PUBLISHED[name].timm, pretrained=False, **(TINY | options))
    net.load_state_dict(random_state(net.state_dict()))
    return net.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "leading"), [("deit_base_distilled_patch16_224", 2), ("vit_base_patch16_224", 1)]
)
@torch.no_grad()
def test_a_transformers_taps_are_the_patches_tokens_after_four_blocks(
    name: str, leading: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the publisher's file of a narrow network."""
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, embed_dim=24))
    whole, path = timm.create_model(name), tmp_path / f"{name}.npz"
    state = random_state(whole.state_dict())
    whole.load_state_dict(state)
    whole.eval()
    if leading == 1:
        write_augreg(path, state, heads=12)
    else:
        path = path.with_suffix(".pth")
        torch.save({"model": state}, path)
    backbone = load_published(name, path, seed=3)

    images, grids = torch.randn(2, 3, 224, 224), []
    x = whole._pos_embed(whole.patch_embed(images))
    for index, block in enumerate(whole.blocks):
        x = block(x)
        if index in (2, 5, 8, 11):
            # Token t is the patch in row t // 14 and column t % 14.
            grids.append(x[:, leading:].transpose(1, 2).unflatten(2, (14, 14)))
    mix: Any = backbone.reassembly[0]  # type: ignore[index]
    expected = [
        functional.conv_transpose2d(mix[0][0](grids[0]), mix[0][1].weight, mix[0][1].bias, stride=4),
        functional.conv_transpose2d(mix[1][0](grids[1]), mix[1][1].weight, mix[1][1].bias, stride=2),
        mix[2](grids[2]),
        functional.conv2d(mix[3][0](grids[3]), mix[3][1].weight, mix[3][1].bias, stride=2, padding=1),
    ]
    assert_close(backbone.reassembly(backbone.taps(images), [0]), expected)  # type: ignore[misc]


def test_a_transformers_random_convolutions_belong_to_the_discriminators_state() -> None:
    extractor = tiny("vit_base_patch16_224", features_only=True, out_indices=BLOCKS)
    nets = [TransformerBackbone(extractor, seed, resolution=32) for seed in (1, 1, 2)]
    nets.append(TransformerBackbone(extractor, 1, sets=2, resolution=32))
    first, same, other, two_sets = (
        nn.utils.parameters_to_vector(net.reassembly.parameters()) for net in nets
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    one_set, another = two_sets.chunk(2)
    assert torch.equal(first, one_set)
    assert not torch.equal(first, another)
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    both = nets[3](images, [6, 7])
    for index, of_a_group in enumerate(images.chunk(2)):
        found, expected = nets[3](of_a_group, [index]), [tap.chunk(2)[index] for tap in both]
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(nets[0](images), nets[3](images, [2, 4]))
    assert not torch.allclose(both[0][2:], nets[0](images)[0][2:])
    heads = Heads(kind="local", channels=4, projection_channels=4, norm_group=2)
    one, two = (build_discriminator({"vit": net}, heads, 0) for net in nets[1:3])
    kept = {name for name in one.trainable_state() if name.startswith("backbones.")}
    assert kept == {f"backbones.vit.reassembly.{name}" for name in nets[1].reassembly.state_dict()}
    two.load_trainable_state(one.trainable_state())
    assert torch.equal(nn.utils.parameters_to_vector(nets[2].reassembly.parameters()), first)


def test_an_npz_of_another_image_size_is_refused(tmp_path: Path) -> None:
    name = "vit_base_patch16_224"
    path = write_augreg(tmp_path / "vit.npz", tiny(name).state_dict(), heads=2)
    with pytest.raises(WeightsProblem, match=r"another network's \(its position embedding has the shape"):
        read_augreg(path, tiny(name, img_size=64))


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str, golden: Path) -> None:
    """The whole networks on the meta device, where tensors have shapes and no numbers."""
    net = published_backbone(name, published_shapes(name), seed=0)
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    mean, std = (torch.tensor(values)[:, None, None] for values in NORMALISATION[name])
    expected = functional.interpolate(((images + 1) / 2 - mean) / std, size=(224, 224), mode="bilinear")
    torch.testing.assert_close(net.prepare(images), expected, rtol=0, atol=1e-5, check_stride=False)

    with torch.device("meta"):
        discriminator = build_discriminator({name: net}, Heads(norm_group=1), seed=0).to("meta").eval()
    taps: list[Tensor] = []
    net.register_forward_hook(lambda _net, _images, output: taps.extend(output))
    (logits,) = discriminator(images.to("meta"))
    pinned = json.loads((golden / "discriminator" / "backbones.json").read_text())
    # What is not among the published discriminator's networks has the taps of its kind.
    alike = {
        "tf_efficientnet_b0_ns": "tf_efficientnet_lite0",
        "vit_base_patch16_224": "deit_base_distilled_patch16_224",
    }
    wanted = pinned[alike.get(name, name)]
    assert list(net.channels) == [tap.shape[1] for tap in taps] == wanted["channels"]
    assert [tap.shape[2] / 224 for tap in taps] == [tap.shape[3] / 224 for tap in taps] == wanted["res_mult"]
    # With the published heads: 11x11 logits a head over VGG's large taps, else 4x4.
    assert logits.shape == (1, 4 * 11 * 11 if name == "vgg16_bn" else 4 * 4 * 4)
