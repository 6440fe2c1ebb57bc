"""LPIPS as objectives use it, against the package called directly."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from gdd.distill.distances import Lpips
from gdd.errors import UserError


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write torchvision's VGG-16, convolutions only, with random weights."""
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    generator = torch.Generator().manual_seed(0)
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    numbers = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    weights = {}
    for number, inputs, outputs in zip(numbers, widths[:-1], widths[1:], strict=True):
        scale = (2 / (9 * inputs)) ** 0.5
        weights[f"features.{number}.weight"] = scale * torch.randn(outputs, inputs, 3, 3, generator=generator)
        weights[f"features.{number}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
    torch.save(weights, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_lpips_is_that_of_the_package(trunk: Path, channels: int) -> None:
    import lpips

    state = torch.get_rng_state()
    distance = Lpips(trunk)
    assert torch.equal(torch.get_rng_state(), state)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    weights = torch.load(trunk, weights_only=True)
    for part in (
        package.net.slice1,
        package.net.slice2,
        package.net.slice3,
        package.net.slice4,
        package.net.slice5,
    ):
        part.load_state_dict({name: weights[f"features.{name}"] for name in part.state_dict()})

    output, target = torch.randn(2, 2, channels, 16, 16).clamp(-1, 1)
    output.requires_grad_()
    values = distance(output, target)
    large = [
        functional.interpolate(images.repeat(1, 3 // channels, 1, 1), size=224, mode="bilinear")
        for images in (output, target)
    ]
    expected = package(*large).flatten()
    torch.testing.assert_close(values, expected)
    assert values.min() > 0
    assert torch.equal(distance(output.detach(), output.detach()), torch.zeros(2))

    values.sum().backward()
    assert output.grad is not None
    assert output.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in distance.network.parameters())
    assert not distance.network.training


@pytest.mark.slow
def test_another_network_is_refused(trunk: Path, tmp_path: Path) -> None:
    weights = torch.load(trunk, weights_only=True)
    del weights["features.28.bias"]
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(UserError, match="does not hold VGG-16; fetch it again with 'gdd fetch lpips-vgg16'"):
        Lpips(tmp_path / "other.pth")


def test_a_file_that_is_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; get it with 'gdd fetch lpips-vgg16'"):
        Lpips(tmp_path / "no.pth")
    (tmp_path / "broken.pth").write_bytes(b"no weights at all")
    with pytest.raises(UserError, match=r"cannot be read .*; fetch it again") as error:
        Lpips(tmp_path / "broken.pth")
    assert "\n" not in str(error.value)
