"""LPIPS as objectives use it, against the package called directly."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gdd.distill.distances import load_lpips
from gdd.errors import UserError

pytestmark = pytest.mark.slow

LAYERS = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
WIDTHS = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write torchvision's VGG-16, with random weights."""
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    generator = torch.Generator().manual_seed(0)
    weights = {"classifier.6.bias": torch.zeros(1000)}
    for layer, inputs, outputs in zip(LAYERS, WIDTHS[:-1], WIDTHS[1:], strict=True):
        scale = (2 / (9 * inputs)) ** 0.5
        weights[f"features.{layer}.weight"] = scale * torch.randn(outputs, inputs, 3, 3, generator=generator)
        weights[f"features.{layer}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
    torch.save(weights, path)
    return path


@pytest.fixture(autouse=True)
def _no_initial_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes seconds and is overwritten at once."""
    for name in ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)


def test_lpips_is_that_of_the_package(trunk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package: Any = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    weights = torch.load(trunk, weights_only=True)
    for part in package.net.children():
        part.load_state_dict({name: weights[f"features.{name}"] for name in part.state_dict()})
    distance = load_lpips(trunk)

    def compare(output: Tensor, target: Tensor, side: int) -> Tensor:
        values = distance(output, target)
        colours = (images.expand(-1, 3, -1, -1) for images in (output, target))
        torch.testing.assert_close(
            values,
            package(*(functional.interpolate(x, size=side, mode="bilinear") for x in colours)).flatten(),
        )
        assert values.min() > 0
        return values

    with torch.no_grad():
        compare(*torch.randn(2, 1, 1, 16, 16).clamp(-1, 1), side=224)
    monkeypatch.setattr("gdd.distill.distances.LPIPS_SIDE", 32)  # in a hundredth of the time
    output, target = torch.randn(2, 2, 3, 16, 16).clamp(-1, 1)
    compare(output.requires_grad_(), target, side=32).sum().backward()
    assert output.grad is not None
    assert (output.grad.abs().sum(dim=(1, 2, 3)) > 0).all()


def test_another_file_is_refused_in_one_sentence(trunk: Path, tmp_path: Path) -> None:
    weights = torch.load(trunk, weights_only=True)
    del weights["features.28.bias"]
    torch.save(weights, tmp_path / "other.pth")
    (tmp_path / "broken.pth").write_bytes(b"no weights at all")
    for name, problem in (("other", "is another network's"), ("broken", "cannot be read as weights")):
        sentence = f"{name}.pth {problem} .*; delete it and get it anew with `gdd fetch lpips-vgg16`"
        with pytest.raises(UserError, match=sentence):
            load_lpips(tmp_path / f"{name}.pth")
