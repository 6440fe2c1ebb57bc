from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from gdd.errors import UserError
from gdd.networks.classifier import SmallClassifier
from gdd.networks.seeded import seeded_weights
from gdd.training.classifier import _shifted, calibrate_batch_norm, train_classifier

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    return np.round(data.images / 16 * 255).astype(np.uint8)[..., None], data.target


def make(architecture: str, width: int) -> SmallClassifier:
    with seeded_weights(1):
        return SmallClassifier(architecture, width, 1, 10, 8)


@pytest.mark.parametrize("architecture", ["plain", "residual"])
def test_learns_the_digits(digits: tuple[np.ndarray, np.ndarray], architecture: str) -> None:
    net = make(architecture, 8)
    result = train_classifier(net, *digits, steps=120, batch=64, lr=5e-3, seed=0)
    assert result["accuracy"] > 0.95
    assert result["loss"] < 0.6
    assert not net.training


def test_depends_on_the_seed_alone(digits: tuple[np.ndarray, np.ndarray]) -> None:
    def run(seed: int, global_seed: int) -> torch.Tensor:
        torch.manual_seed(global_seed)
        net = make("plain", 4)
        before = torch.get_rng_state()
        train_classifier(net, *digits, steps=3, batch=8, lr=1e-3, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        return net.logits.weight.detach()

    assert torch.equal(run(0, 1), run(0, 2))
    assert not torch.equal(run(0, 1), run(1, 1))


def test_calibration_gives_normalised_features_and_keeps_the_weights(
    digits: tuple[np.ndarray, np.ndarray],
) -> None:
    net = make("plain", 8)
    before = [parameter.clone() for parameter in net.parameters()]
    calibrate_batch_norm(net, digits[0], batch=500)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    images = torch.from_numpy(digits[0].transpose(0, 3, 1, 2)).float() / 127.5 - 1
    x = images
    with torch.no_grad():
        for layer in net.stages[0][:-1]:  # up to the last batch norm, before its ReLU
            x = layer(x)
    assert x.mean((0, 2, 3)).abs().max() < 0.05
    assert (x.std((0, 2, 3)) - 1).abs().max() < 0.05
    assert all(norm.momentum == 0.1 for norm in net.modules() if isinstance(norm, torch.nn.BatchNorm2d))


def test_calibration_in_one_pass_takes_exactly_the_statistics_of_the_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1), dtype=np.uint8)
    net = make("plain", 4)
    calibrate_batch_norm(net, images, batch=32)
    convolved = net.stages[0][0](torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert torch.allclose(net.stages[0][1].running_mean, convolved.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(net.stages[0][1].running_var, convolved.var((0, 2, 3)), atol=1e-5)


def test_shifts_are_whole_images_moved_by_at_most_one_pixel() -> None:
    images = torch.arange(2 * 3 * 4 * 4.0).reshape(1, 6, 4, 4).repeat(50, 1, 1, 1)
    padded = torch.nn.functional.pad(images[:1], (1, 1, 1, 1), mode="replicate")[0]
    allowed = [padded[:, y : y + 4, x : x + 4] for y in range(3) for x in range(3)]
    seen = {
        next(i for i, candidate in enumerate(allowed) if torch.equal(candidate, image))
        for image in _shifted(images, torch.Generator().manual_seed(0))
    }
    assert len(seen) == 9


def test_bad_input_is_named(digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = digits
    net = make("plain", 4)
    with pytest.raises(UserError, match="uint8 images of shape"):
        calibrate_batch_norm(net, images.astype(np.float32))
    with pytest.raises(UserError, match="class indices from 0 to 9"):
        train_classifier(net, images, labels + 1, steps=1, batch=8, lr=1e-3, seed=0)
