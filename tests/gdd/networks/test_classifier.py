from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gdd.errors import UserError
from gdd.networks.classifier import SmallClassifier, load_classifier, save_classifier
from gdd.networks.seeded import derived_seed, seeded_weights
from gdd.networks.weights import load_weights, save_weights


def make(
    architecture: str = "plain", width: int = 4, channels: int = 1, resolution: int = 8
) -> SmallClassifier:
    with seeded_weights(3):
        return SmallClassifier(architecture, width, channels, 10, resolution)


@pytest.mark.parametrize("architecture", ["plain", "residual"])
@pytest.mark.parametrize(("channels", "resolution"), [(1, 8), (3, 32), (3, 12)])
def test_three_taps_halve_the_resolution_and_end_in_features_and_logits(
    architecture: str, channels: int, resolution: int
) -> None:
    net = make(architecture, channels=channels, resolution=resolution).eval()
    images = torch.rand(2, channels, resolution, resolution) * 2 - 1
    taps = net.taps(images)
    assert [tap.shape[1] for tap in taps] == list(net.channels)
    assert [tap.shape[2] for tap in taps] == [resolution, resolution // 2, resolution // 4]
    assert net.features(images).shape == (2, net.feature_channels)
    assert torch.equal(net.logits(net.features(images)), net(images))
    assert net(images).shape == (2, 10)


def test_the_judge_has_64_features() -> None:
    assert make("residual").feature_channels == 64


@pytest.mark.parametrize("architecture", ["plain", "residual"])
def test_a_saved_classifier_comes_back_frozen_and_equal(tmp_path: Path, architecture: str) -> None:
    net = make(architecture)
    net(torch.randn(16, 1, 8, 8))  # moves the running statistics
    path = tmp_path / "net.safetensors"
    save_classifier(path, net, accuracy=0.5)
    before = torch.get_rng_state()
    loaded = load_classifier(path)
    assert torch.equal(torch.get_rng_state(), before)
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(loaded(images), net.eval()(images))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert load_weights(path)[1]["accuracy"] == 0.5


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Unknown classifier architecture 'wide'"):
        make("wide")
    with pytest.raises(UserError, match="resolution of 8, 12"):
        make(resolution=10)
    save_weights(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, {"kind": "denoiser"})
    with pytest.raises(UserError, match="holds a 'denoiser'"):
        load_classifier(tmp_path / "other.safetensors")


def test_seeded_weights_depend_on_the_seed_alone_and_leave_the_global_state() -> None:
    torch.manual_seed(1)
    first = make()
    expected = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), expected)
    second = make()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    with seeded_weights(4):
        other = SmallClassifier("plain", 4, 1, 10, 8)
    assert not torch.equal(first.logits.weight, other.logits.weight)


def test_derived_seeds_are_stable_and_differ_by_purpose() -> None:
    assert derived_seed(0, "head", 1) == derived_seed(0, "head", 1)
    seeds = {derived_seed(s, "head", i) for s in range(3) for i in range(3)} | {derived_seed(0, "projection")}
    assert len(seeds) == 10
    assert all(0 <= seed < 2**63 for seed in seeds)
