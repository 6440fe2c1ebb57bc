"""Spectral norms that iterate together are PyTorch's, whatever the shapes and the layout."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from gdd.adversary import spectral_norm as module
from gdd.adversary.spectral_norm import PowerIterations, spectral_norm

SHAPES = [(4, 3, 3), (4, 3, 3), (1, 4, 4), (4, 3, 3), (1, 4, 4), (5, 2, 1)]


def layers(norm: object) -> nn.ModuleList:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(inputs, outputs, kernel) for outputs, inputs, kernel in SHAPES]
    return nn.ModuleList([norm(convolution) for convolution in convolutions])  # type: ignore[operator]


def passes(network: nn.ModuleList, iterations: PowerIterations | None) -> list[Tensor]:
    """Return the outputs of two passes, in each of which every layer iterates once."""
    outputs = []
    for name in ("fakes", "reals"):
        inputs = [torch.linspace(-1, 1, 2 * shape[1] * 16).view(2, shape[1], 4, 4) for shape in SHAPES]
        if iterations:
            with iterations.of_pass(name):
                outputs += [layer(x.to(layer.weight_orig)) for layer, x in zip(network, inputs, strict=True)]
        else:
            outputs += [layer(x.to(layer.weight_orig)) for layer, x in zip(network, inputs, strict=True)]
    return outputs


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("groups", [len(SHAPES), 3], ids=["one by one", "together"])
def test_is_pytorchs(groups: int, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, found = layers(nn.utils.spectral_norm), layers(spectral_norm)
    assert list(found.state_dict()) == list(expected.state_dict())
    found.load_state_dict(copy.deepcopy(expected.state_dict()))
    dtype = torch.float32 if groups == len(SHAPES) else torch.float64
    expected, found = expected.to(dtype), found.to(dtype).to(memory_format=layout)
    if groups == 3:  # as on a GPU
        monkeypatch.setattr(module, "one_by_one", lambda device: False)
    iterations = PowerIterations(found)
    assert len(iterations.groups) == groups
    iterations.begin()
    results = []
    for network, with_iterations in ((expected, None), (found, iterations)):
        outputs = passes(network, with_iterations)
        sum(y.pow(3).sum() for y in outputs).backward()  # type: ignore[union-attr]
        gradients = [parameter.grad for parameter in network.parameters()]
        results.append([*outputs, *gradients, *network.state_dict().values()])
    for plain, own in zip(*results, strict=True):
        if groups == len(SHAPES) and layout == torch.contiguous_format:
            assert torch.equal(own, plain)
        else:
            tolerance = 1e-5 if dtype == torch.float32 else 1e-12
            torch.testing.assert_close(own, plain, rtol=tolerance, atol=tolerance)
    for parameter in found.parameters():
        assert parameter.grad is not None
        assert parameter.ndim < 4 or parameter.grad.is_contiguous(memory_format=layout)


def test_a_layer_outside_a_pass_iterates_by_itself() -> None:
    expected, found = layers(nn.utils.spectral_norm), layers(spectral_norm)
    for plain, own in zip(passes(expected, None), passes(found, None), strict=True):
        assert torch.equal(own, plain)
    expected.eval()
    found.eval()
    for plain, own in zip(passes(expected, None), passes(found, None), strict=True):
        assert torch.equal(own, plain)
    assert all(map(torch.equal, found.state_dict().values(), expected.state_dict().values()))
