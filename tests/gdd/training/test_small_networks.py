from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from gdd.config.records import FeatureNetwork
from gdd.data.image_array import to_signed
from gdd.networks.classifier import SmallClassifier
from gdd.randomness import seeded_weights
from gdd.training.feature_network import _shifted, calibrate_batch_norm, train_classifier

Digits = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def digits() -> Digits:
    data = load_digits()
    images = np.round(data.images / 16 * 255).astype(np.uint8)[..., None]
    return to_signed(images), torch.from_numpy(data.target.astype(np.int64))


def make(architecture: str, width: int) -> SmallClassifier:
    with seeded_weights(1):
        return SmallClassifier(architecture, width, 1, 10, 8)


def record(**changes: object) -> FeatureNetwork:
    usual = {"title": "t", "dataset": "digits", "architecture": "plain", "width": 4, "seed": 0}
    return FeatureNetwork.model_validate(usual | changes)


@pytest.mark.parametrize("architecture", ["plain", pytest.param("residual", marks=pytest.mark.slow)])
def test_learns_the_digits(digits: Digits, architecture: str) -> None:
    net = make(architecture, 8)
    of = record(architecture=architecture, width=8, steps=60, batch=64, lr=5e-3)
    assert net.feature_channels == of.features  # which the configuration knows without it
    result = train_classifier(net, *digits, of)
    assert result["accuracy"] > 0.8  # by chance it is 0.1
    assert result["loss"] < 1.5
    assert not net.training


def test_depends_on_the_seed_alone(digits: Digits) -> None:
    def run(seed: int, global_seed: int) -> Tensor:
        torch.manual_seed(global_seed)
        net = make("plain", 4)
        before = torch.get_rng_state()
        train_classifier(net, *digits, record(steps=3, batch=8, lr=1e-3, seed=seed))
        assert torch.equal(torch.get_rng_state(), before)
        return net.logits.weight.detach()

    assert torch.equal(run(0, 1), run(0, 2))
    assert not torch.equal(run(0, 1), run(1, 1))


def test_calibration_takes_the_statistics_of_the_images_and_keeps_the_weights(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = make("plain", 8)
    before = [parameter.clone() for parameter in net.parameters()]
    with torch.no_grad():
        convolved = net.stages[0][0](digits[0])
    for batch, tolerance in ((2000, 1e-4), (500, 1e-3)):  # nearly equal passes, each of which counts the same
        monkeypatch.setattr("gdd.training.feature_network.BATCH", batch)
        calibrate_batch_norm(net, digits[0])
        norm = net.stages[0][1]
        torch.testing.assert_close(norm.running_mean, convolved.mean((0, 2, 3)), atol=tolerance, rtol=0)
        torch.testing.assert_close(norm.running_var, convolved.var((0, 2, 3)), atol=tolerance, rtol=1e-2)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_shifts_are_whole_images_moved_by_at_most_one_pixel() -> None:
    images = torch.arange(2 * 3 * 4 * 4.0).reshape(1, 6, 4, 4).repeat(50, 1, 1, 1)
    padded = torch.nn.functional.pad(images[:1], (1, 1, 1, 1), mode="replicate")[0]
    allowed = [padded[:, y : y + 4, x : x + 4] for y in range(3) for x in range(3)]
    seen = {
        next(i for i, candidate in enumerate(allowed) if torch.equal(candidate, image))
        for image in _shifted(images, torch.Generator().manual_seed(0))
    }
    assert len(seen) == 9
