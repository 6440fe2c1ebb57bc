from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gdd.adversary import winograd
from gdd.adversary.frozen_convolution import FrozenConv2d


def by_tiles(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return winograd.convolve(x, *winograd.transformed_filters(weight), bias)


@pytest.mark.parametrize("size", [(8, 8), (4, 12), (7, 14), (1, 3), (5, 2)])
@pytest.mark.parametrize("at_once", [1, 2**13, 2**30])
def test_is_the_convolution(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], at_once: int) -> None:
    monkeypatch.setattr(winograd, "BYTES_AT_ONCE", at_once)
    torch.manual_seed(0)
    x, weight = torch.randn(3, 5, *size, dtype=torch.float64), torch.randn(4, 5, 3, 3, dtype=torch.float64)
    bias = torch.randn(4, dtype=torch.float64)
    for given in (None, bias):
        expected = functional.conv2d(x, weight, given, padding=1)
        found = by_tiles(x, weight, given)
        assert found.shape == expected.shape
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_both_derivatives_are_right() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    weight, bias = torch.randn(2, 3, 3, 3, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: by_tiles(x, weight, bias), x)
    assert torch.autograd.gradgradcheck(lambda x: by_tiles(x, weight, bias), x)


def test_rounding_is_a_few_times_the_ordinary_ones() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 256, 16, 16).relu(), torch.randn(128, 256, 3, 3) / 48
    exact = functional.conv2d(x.double(), weight.double(), padding=1)
    last = [tensor.to(memory_format=torch.channels_last) for tensor in (x, weight)]
    ordinary = (functional.conv2d(*last, padding=1) - exact).norm() / exact.norm()
    found = (by_tiles(x, weight) - exact).norm() / exact.norm()
    assert found < 3e-6
    assert found < 8 * ordinary


def test_large_frozen_convolutions_take_it_and_follow_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    asked: list[tuple[int, ...]] = []

    def noted(x: Tensor, filters: Tensor, mirrored: Tensor, bias: Tensor | None) -> Tensor:
        asked.append(tuple(filters.shape))
        return convolve(x, filters, mirrored, bias)

    convolve = winograd.convolve
    monkeypatch.setattr(winograd, "convolve", noted)
    x = torch.randn(1, 128, 8, 8)
    large, small = (FrozenConv2d(nn.Conv2d(128, outputs, 3, padding=1)) for outputs in (256, 128))
    for conv in (large, small, large):
        assert torch.allclose(conv(x), functional.conv2d(x, conv.weight, conv.bias, padding=1), atol=1e-4)
    with torch.no_grad():
        large.weight.mul_(2)
    expected = functional.conv2d(x, large.weight, large.bias, padding=1)
    assert torch.allclose(large(x), expected, atol=1e-4)
    assert asked == [(36, 128, 256)] * 3
    with torch.autocast("cpu", torch.bfloat16):
        assert large(x).dtype == torch.bfloat16
    large.double()(x.double())
    assert len(asked) == 3


def test_filters_are_made_again_after_a_move_and_for_who_needs_gradients() -> None:
    torch.manual_seed(0)
    conv, x = FrozenConv2d(nn.Conv2d(128, 256, 3, padding=1)), torch.randn(1, 128, 8, 8)
    with torch.inference_mode():
        first = conv(x)
    x.requires_grad_(True)
    conv(x).sum().backward()
    assert x.grad is not None
    assert conv.filters is not None
    rounded = conv.bfloat16().float()
    assert conv.filters is None
    assert torch.allclose(rounded(x), functional.conv2d(x, conv.weight, conv.bias, padding=1), atol=1e-4)
    assert not torch.equal(rounded(x), first)
    assert conv(x.detach()[0]).shape == (256, 8, 8)  # an image alone goes the ordinary way
