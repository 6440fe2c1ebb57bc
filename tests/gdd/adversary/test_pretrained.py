from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from published_files import timm_state, vgg_state, write_augreg

from gdd.adversary.backbones import load_backbones
from gdd.adversary.discriminator import build_discriminator
from gdd.adversary.feature_network import FeatureNetwork
from gdd.adversary.losses import r1_penalty
from gdd.adversary.pretrained import load_pretrained
from gdd.config.architecture import Architecture
from gdd.config.pretrained import BACKBONES
from gdd.errors import UserError
from gdd.networks.preconditioning import Denoiser

pytestmark = pytest.mark.slow

NORMALISATION = {  # timm's name of the weights, whose normalisation a backbone has to use
    "tf_efficientnet_lite0": "tf_efficientnet_lite0.in1k",
    "tf_efficientnet_b0_ns": "tf_efficientnet_b0.ns_jft_in1k",
    "deit_base_distilled_patch16_224": "deit_base_distilled_patch16_224.fb_in1k",
    "vit_base_patch16_224": "vit_base_patch16_224.augreg_in21k_ft_in1k",
}


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


def published_file(name: str, folder: Path) -> Path:
    if name == "vit_base_patch16_224":
        return write_augreg(folder / name, timm_state(name), heads=12).with_suffix(".npz")
    state = vgg_state() if name == "vgg16_bn" else timm_state(name.removesuffix("_ns"))
    torch.save({"model": state} if name.startswith("deit") else state, folder / name)
    return folder / name


def test_from_a_file_through_the_discriminators_list(tmp_path: Path, teacher: Denoiser) -> None:
    path = published_file("tf_efficientnet_lite0", tmp_path)
    names = ["tf_efficientnet_lite0", "teacher-encoder"]
    backbones = load_backbones(names, {"tf_efficientnet_lite0": path}, teacher, 0)
    assert list(backbones) == names
    taps = backbones["tf_efficientnet_lite0"](torch.rand(1, 3, 16, 16))
    assert [tuple(tap.shape) for tap in taps] == [
        (1, 24, 56, 56),
        (1, 40, 28, 28),
        (1, 112, 14, 14),
        (1, 320, 7, 7),
    ]


def test_a_file_that_is_not_right_says_what_to_fetch(tmp_path: Path, teacher: Denoiser) -> None:
    with pytest.raises(UserError, match=r"'vgg16_bn' was given no file; run `gdd fetch vgg16-bn`"):
        load_backbones(["vgg16_bn"], {}, teacher, 0)
    with pytest.raises(UserError, match=r"nowhere\.pth, which does not exist; run `gdd fetch vgg16-bn`"):
        load_pretrained("vgg16_bn", tmp_path / "nowhere.pth", 0)
    path = tmp_path / "file"
    for name, source in BACKBONES.items():
        path.write_text("<html>")
        with pytest.raises(
            UserError, match=f"file of the backbone '{name}' cannot be read .* `gdd fetch {source}`"
        ):
            load_pretrained(name, path, 0)
        if name != "vit_base_patch16_224":
            torch.save({"classifier.weight": torch.zeros(2)}, path)
            with pytest.raises(UserError, match=f"'{name}' is another network's .* `gdd fetch {source}`"):
                load_pretrained(name, path, 0)


def test_r1_passes_a_teachers_attention(teacher: Denoiser) -> None:
    backbones = load_backbones(["teacher-encoder"], {}, teacher, 0)
    discriminator = build_discriminator(
        backbones, head="local", projection_channels=4, head_channels=4, group=2, seed=0
    )
    r1_penalty(discriminator, torch.randn(2, 3, 8, 8)).mean().backward()
    gradients = [parameter.grad for parameter in discriminator.trainable_parameters()]
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    assert {name.split(".")[0] for name in discriminator.trainable_state()} == {"projections", "heads"}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BACKBONES))
def test_published_sizes(name: str, tmp_path: Path, golden: Path) -> None:
    path = published_file(name, tmp_path)
    net: FeatureNetwork = load_pretrained(name, path, 0)
    path.unlink()
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        taps = net(images)
    pinned = json.loads((golden / "discriminator" / "backbones.json").read_text()).get(name)
    if pinned:
        assert list(net.channels) == [tap.shape[1] for tap in taps] == pinned["channels"]
        assert [tap.shape[2] / 224 for tap in taps] == pinned["res_mult"]
        assert [tap.shape[3] / 224 for tap in taps] == pinned["res_mult"]
    wanted = timm.get_pretrained_cfg(NORMALISATION[name]) if name in NORMALISATION else None
    mean = torch.tensor(wanted.mean if wanted else (0.485, 0.456, 0.406))
    std = torch.tensor(wanted.std if wanted else (0.229, 0.224, 0.225))
    expected = ((images + 1) / 2 - mean[:, None, None]) / std[:, None, None]
    expected = torch.nn.functional.interpolate(
        expected, size=(224, 224), mode="bilinear", align_corners=False
    )
    assert torch.allclose(net.prepare(images), expected, atol=1e-5)
    # With the published heads: 11x11 logits a head over VGG's large taps, else 4x4.
    discriminator = build_discriminator(
        {name: net}, head="downsampling", projection_channels=64, head_channels=64, group=1, seed=0
    )
    with torch.no_grad():
        (logits,) = discriminator.eval()(images)
    assert logits.shape == (1, 4 * 11 * 11 if name == "vgg16_bn" else 4 * 4 * 4)
