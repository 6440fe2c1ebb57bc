from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gdd.adversary.frozen_convolution import FrozenConv2d, freeze_convolutions


class _Backward(TorchDispatchMode):
    """Notes for which of input, weight and bias a convolution's derivative is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[list[bool]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.ops.aten.convolution_backward.default:
            self.masks.append(list(args[-1]))
        return func(*args, **(kwargs or {}))


def derivatives(conv: nn.Conv2d, x: Tensor) -> list[Tensor]:
    """Return the output, the gradient of something of it, and the gradient of something of that."""
    x = x.clone().requires_grad_(True)
    y = conv(x)
    (first,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    return [y, first, second]


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 1, "bias": False},
        {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 2},
        {"kernel_size": 4, "stride": 3, "padding": (0, 2)},
        {"kernel_size": 3, "dilation": 2},
    ],
)
@pytest.mark.parametrize("size", [(8, 8), (9, 12)])
def test_both_derivatives_are_an_ordinary_convolutions(options: dict, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ordinary = nn.Conv2d(4, 6, **options).double().requires_grad_(False)
    frozen = FrozenConv2d(ordinary)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(frozen(x), ordinary(x))
    for found, expected in zip(derivatives(frozen, x), derivatives(ordinary, x), strict=True):
        assert expected.abs().max() > 0
        assert torch.allclose(found, expected, atol=1e-12)


def test_the_second_derivative_asks_for_no_weight_gradient() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Softplus(), nn.Conv2d(3, 2, 3)).requires_grad_(False)
    x = torch.randn(1, 2, 8, 8)
    ordinary = derivatives(net, x)  # type: ignore[arg-type]
    freeze_convolutions(net)
    with _Backward() as noted:
        frozen = derivatives(net, x)  # type: ignore[arg-type]
    assert not any(weight or bias for _, weight, bias in noted.masks)
    for found, expected in zip(frozen, ordinary, strict=True):
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_keeps_no_activations_for_the_backward_pass() -> None:
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    conv = FrozenConv2d(nn.Conv2d(2, 2, 3))
    kept: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        conv(x).sum().backward()
    assert [tensor.shape for tensor in kept] == [conv.weight.shape]
    assert conv.weight.grad is None


def test_names_subclasses_and_lower_precision_stay() -> None:
    class Special(nn.Conv2d):
        pass

    net = nn.ModuleDict({"plain": nn.Conv2d(2, 2, 1), "special": Special(2, 2, 1)})
    before = copy.deepcopy(net).state_dict()
    freeze_convolutions(net)
    assert isinstance(net["plain"], FrozenConv2d)
    assert type(net["special"]) is Special
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = net["plain"](x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
