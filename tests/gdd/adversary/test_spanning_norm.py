from __future__ import annotations

import torch
from torch import nn

from gdd.adversary.batch_norm import GroupedBatchNorm2d
from gdd.adversary.spanning_norm import SpanningBatchNorm2d, span_processes


def test_one_process_normalises_as_plain_batch_norm() -> None:
    plain = GroupedBatchNorm2d(3, 6)
    with torch.no_grad():
        plain.weight.copy_(torch.randn(3))
    network = nn.Sequential(nn.Sequential(plain))
    expected = nn.BatchNorm2d(3)
    expected.load_state_dict(plain.state_dict())
    parameters = list(network.parameters())
    span_processes(network, None, 1)
    spanning = network[0][0]
    assert isinstance(spanning, SpanningBatchNorm2d)
    assert all(one is other for one, other in zip(network.parameters(), parameters, strict=True))
    x = torch.randn(6, 3, 4, 4) * 3 + 1
    torch.testing.assert_close(network(x), expected(x))
    assert network.state_dict().keys() == {f"0.0.{name}" for name in expected.state_dict()}
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(spanning.state_dict()[name], tensor)
    torch.testing.assert_close(network.eval()(x), expected.eval()(x))


def test_can_be_differentiated_twice() -> None:
    norm = SpanningBatchNorm2d(nn.BatchNorm2d(2), None, 1).double()
    x = torch.randn(4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(norm, (x,), atol=1e-4)
