"""Published backbones by timm against an independent reading of the networks, with random weights."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from random_weights import published_state, random_state, write_augreg, write_published
from torch import Tensor, nn
from torch.nn import functional

from gdd.adversary.backbones import (
    BLOCKS,
    PUBLISHED,
    TransformerBackbone,
    load_backbones,
    load_published,
    published_backbone,
)
from gdd.adversary.discriminator import build_discriminator
from gdd.adversary.published_weights import WeightsProblem, read_augreg
from gdd.config.architecture import Architecture
from gdd.config.names import BACKBONES
from gdd.errors import UserError
from gdd.networks.preconditioning import Denoiser

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIGNED = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NORMALISATION = {  # what the networks were trained on
    "vgg16_bn": IMAGENET,
    "tf_efficientnet_lite0": SIGNED,
    "tf_efficientnet_b0_ns": IMAGENET,
    "deit_base_distilled_patch16_224": IMAGENET,
    "vit_base_patch16_224": SIGNED,
}
CONVOLUTIONAL = ("vgg16_bn", "tf_efficientnet_lite0", "tf_efficientnet_b0_ns")


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


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@torch.no_grad()
def test_a_convolutional_network_folded_gives_the_published_ones_taps(name: str) -> None:
    state = published_state(name)
    backbone = published_backbone(name, state, seed=0)
    x = torch.randn(2, 3, 64, 64)
    taps = backbone.taps(x)
    expected = []
    for stage in stages(name, state):
        x = stage(x)
        expected.append(x.clone())  # the next stage may work in place
    assert_close(taps, expected)
    assert backbone.channels == tuple(tap.shape[1] for tap in taps)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())


def test_lookalikes_are_told_apart() -> None:
    lite = published_state("tf_efficientnet_lite0")
    with pytest.raises(WeightsProblem, match=r"'blocks\.0\.0\.se\.conv_reduce\.weight'"):
        published_backbone("tf_efficientnet_b0_ns", lite, 0)
    with pytest.raises(WeightsProblem, match="another network's"):
        published_backbone("tf_efficientnet_lite0", published_state("tf_efficientnet_b0_ns"), 0)


TINY = {"embed_dim": 12, "num_heads": 2, "img_size": 32}


def tiny(name: str, **options: Any) -> Any:
    """Return timm's network of that name, with few channels and random weights."""
    net = timm.create_model(PUBLISHED[name].timm, pretrained=False, **(TINY | options))
    net.load_state_dict(random_state(net.state_dict()))
    return net.eval()


@pytest.mark.parametrize(
    ("name", "leading"), [("deit_base_distilled_patch16_224", 2), ("vit_base_patch16_224", 1)]
)
@torch.no_grad()
def test_a_transformers_taps_are_the_patches_tokens_after_four_blocks(name: str, leading: int) -> None:
    images, whole = torch.randn(2, 3, 32, 32), tiny(name)
    extractor = tiny(name, features_only=True, out_indices=BLOCKS)
    state = whole.state_dict()
    extractor.model.load_state_dict({key: state[key] for key in extractor.model.state_dict()})
    grids = []
    x = whole._pos_embed(whole.patch_embed(images))
    for index, block in enumerate(whole.blocks):
        x = block(x)
        if index in (2, 5, 8, 11):
            # Token t is the patch in row t // 2 and column t % 2.
            grids.append(x[:, leading:].transpose(1, 2).unflatten(2, (2, 2)))
    backbone = TransformerBackbone(extractor, seed=3, resolution=32)
    mix: Any = backbone.reassembly
    expected = [
        functional.conv_transpose2d(mix[0][0](grids[0]), mix[0][1].weight, mix[0][1].bias, stride=4),
        functional.conv_transpose2d(mix[1][0](grids[1]), mix[1][1].weight, mix[1][1].bias, stride=2),
        mix[2](grids[2]),
        functional.conv2d(mix[3][0](grids[3]), mix[3][1].weight, mix[3][1].bias, stride=2, padding=1),
    ]
    assert_close(backbone.taps(images), expected)


def test_a_transformers_random_convolutions_belong_to_the_discriminators_state() -> None:
    extractor = tiny("vit_base_patch16_224", features_only=True, out_indices=BLOCKS)
    before = torch.get_rng_state()
    first, same, other = (TransformerBackbone(extractor, seed=seed, resolution=32) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [nn.utils.parameters_to_vector(net.reassembly.parameters()) for net in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    one, two = (
        build_discriminator(
            {"vit": net}, head="local", projection_channels=4, head_channels=4, group=2, seed=0
        )
        for net in (first, other)
    )
    kept = {name for name in one.trainable_state() if name.startswith("backbones.")}
    assert kept == {f"backbones.vit.reassembly.{name}" for name in first.reassembly.state_dict()}
    two.load_trainable_state(one.trainable_state())
    assert torch.equal(nn.utils.parameters_to_vector(other.reassembly.parameters()), weights[0])


def test_reads_augregs_npz_and_refuses_another(tmp_path: Path) -> None:
    name = "vit_base_patch16_224"
    whole = tiny(name)
    path = write_augreg(tmp_path / "vit.npz", whole.state_dict(), heads=2)
    with torch.device("meta"):
        found = read_augreg(path, timm.create_model(PUBLISHED[name].timm, pretrained=False, **TINY))
    assert found.keys() == whole.state_dict().keys()
    assert all(torch.equal(value, found[key]) for key, value in whole.state_dict().items())
    with pytest.raises(WeightsProblem, match=r"another network's \(its position embedding"):
        read_augreg(path, tiny(name, img_size=48))  # timm would interpolate
    content = path.read_bytes()
    for damaged in (b"", b"<html>", content[:-200]):
        path.write_bytes(damaged)
        with pytest.raises(WeightsProblem, match="cannot be read as a vision transformer"):
            read_augreg(path, tiny(name))


@pytest.fixture
def teacher() -> Denoiser:
    return Denoiser(
        Architecture(
            model_type="SongUNet",
            img_resolution=8,
            model_channels=8,
            channel_mult=(1, 2),
            num_blocks=1,
            attn_resolutions=(4,),
        )
    )


def test_a_file_that_is_not_right_says_what_to_fetch(tmp_path: Path, teacher: Denoiser) -> None:
    with pytest.raises(UserError, match=r"'vgg16_bn' was given no file; run `gdd fetch vgg16-bn`"):
        load_backbones(["vgg16_bn"], {}, teacher, 0)
    path = tmp_path / "file.npz"
    for name, source in BACKBONES.items():
        path.write_text("<html>")
        with pytest.raises(UserError, match=f"backbone '{name}' cannot be read .* `gdd fetch {source}`"):
            load_published(name, path, 0)
        path = tmp_path / "file.pth"
    torch.save({"classifier.weight": torch.zeros(2)}, path)
    for name in BACKBONES.keys() - {"vit_base_patch16_224"}:
        with pytest.raises(UserError, match=f"'{name}' is another network's .* `gdd fetch"):
            load_published(name, path, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PUBLISHED))
@torch.no_grad()
def test_published_sizes(name: str, tmp_path: Path, golden: Path, teacher: Denoiser) -> None:
    path = write_published(name, tmp_path)
    backbones = load_backbones([name, "teacher-encoder"], {name: path}, teacher, 0)
    assert list(backbones) == [name, "teacher-encoder"]
    net = backbones[name]
    path.unlink()
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    taps = net(images)
    pinned = json.loads((golden / "discriminator" / "backbones.json").read_text())
    # What is not among the published discriminator's networks has the taps of its kind.
    alike = {
        "tf_efficientnet_b0_ns": "tf_efficientnet_lite0",
        "vit_base_patch16_224": "deit_base_distilled_patch16_224",
    }
    wanted = pinned[alike.get(name, name)]
    assert list(net.channels) == [tap.shape[1] for tap in taps] == wanted["channels"]
    assert [tap.shape[2] / 224 for tap in taps] == [tap.shape[3] / 224 for tap in taps] == wanted["res_mult"]
    mean, std = (torch.tensor(values)[:, None, None] for values in NORMALISATION[name])
    expected = functional.interpolate(((images + 1) / 2 - mean) / std, size=(224, 224), mode="bilinear")
    assert torch.allclose(net.prepare(images), expected, atol=1e-5)
    assert not any(tensor.is_meta for tensor in [*net.parameters(), *net.buffers()])
    # With the published heads: 11x11 logits a head over VGG's large taps, else 4x4.
    discriminator = build_discriminator(
        {name: net}, head="downsampling", projection_channels=64, head_channels=64, group=1, seed=0
    )
    (logits,) = discriminator.eval()(images)
    assert logits.shape == (1, 4 * 11 * 11 if name == "vgg16_bn" else 4 * 4 * 4)
