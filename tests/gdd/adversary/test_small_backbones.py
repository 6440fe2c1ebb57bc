"""Backbones that are small classifiers, and networks that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from random_weights import published_shapes
from torch import nn

from gdd.adversary.backbones import (
    SmallBackbone,
    load_backbones,
    load_published,
    published_backbone,
)
from gdd.adversary.published_weights import WeightsProblem
from gdd.config.architecture import Architecture
from gdd.config.names import BACKBONES
from gdd.errors import UserError
from gdd.networks.classifier import SmallClassifier, save_classifier
from gdd.networks.preconditioning import Denoiser
from gdd.randomness import seeded_weights


def classifier(architecture: str) -> SmallClassifier:
    with seeded_weights(0):
        net = SmallClassifier(architecture, 4, 1, 10, 8)
        for _ in range(5):  # so that the running statistics are not trivial
            net(torch.randn(32, 1, 8, 8) * 2 + 1)
    for parameter in net.parameters():  # so that neither are the affine parts
        parameter.data += 0.1
    return net.eval()


@pytest.mark.parametrize("architecture", ["plain", "residual"])
def test_a_small_backbone_has_its_classifiers_taps_and_stays_frozen(architecture: str) -> None:
    net = classifier(architecture)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    images = (torch.rand(4, 1, 8, 8) * 2 - 1).requires_grad_(True)
    backbone, expected = SmallBackbone(net), net.taps(images)
    assert backbone.channels == tuple(tap.shape[1] for tap in expected)
    owner = nn.Sequential(backbone).train()
    torch.testing.assert_close(owner(images), expected, rtol=1e-5, atol=1e-5)
    # Only what comes first in a residual block has no convolution before it.
    left = [name for name, module in backbone.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(left) == (3 if architecture == "residual" else 0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    sum(tap.square().sum() for tap in owner(images)).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


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


def test_a_backbone_that_does_not_fit_is_refused_in_one_sentence(tmp_path: Path, teacher: Denoiser) -> None:
    page, other = tmp_path / "page", tmp_path / "other.pth"
    page.write_text("<html>")
    torch.save({"classifier.weight": torch.zeros(2)}, other)
    for name, source in BACKBONES.items():
        file = page.rename(tmp_path / ("page.npz" if name == "vit_base_patch16_224" else "page.pth"))
        with pytest.raises(UserError, match=f"backbone '{name}' cannot be read .* `gdd fetch {source}`"):
            load_published(name, file, 0)
        page = file
    for name in ("tf_efficientnet_lite0", "deit_base_distilled_patch16_224"):
        with pytest.raises(UserError, match=f"'{name}' is another network's .* `gdd fetch"):
            load_published(name, other, 0)
    lite = published_shapes("tf_efficientnet_lite0")
    with pytest.raises(WeightsProblem, match=r"'blocks\.0\.0\.se\.conv_reduce\.weight'"):
        published_backbone("tf_efficientnet_b0_ns", lite, 0)
    save_classifier(tmp_path / "grey.safetensors", classifier("plain"), feature_scale=1.0)
    with pytest.raises(
        UserError, match=r"backbone 'grey' takes images of 1 channels, the teacher makes .* 3"
    ):
        load_backbones(["teacher-encoder", "grey"], {"grey": tmp_path / "grey.safetensors"}, teacher, 0)
