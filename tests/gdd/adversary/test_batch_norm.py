from __future__ import annotations

import pytest
import torch
from torch import nn

from gdd.adversary.batch_norm import GroupedBatchNorm2d
from gdd.errors import UserError


def pair(group: int) -> tuple[GroupedBatchNorm2d, GroupedBatchNorm2d]:
    first, second = GroupedBatchNorm2d(3, group), GroupedBatchNorm2d(3, group)
    weight, bias = torch.randn(3), torch.randn(3)
    for norm in (first, second):
        norm.load_state_dict({**norm.state_dict(), "weight": weight, "bias": bias})
    return first, second


def test_one_pass_over_two_groups_is_two_passes_to_the_bit() -> None:
    together, apart = pair(4)
    x = torch.randn(8, 3, 5, 5) * torch.linspace(0.5, 2, 8)[:, None, None, None]
    a, b = (part.clone().requires_grad_(True) for part in (x, x))
    out_together = together(a)
    out_apart = torch.cat([apart(b[:4]), apart(b[4:])])
    assert torch.equal(out_together, out_apart)
    for name, value in together.state_dict().items():
        assert torch.equal(value, apart.state_dict()[name]), name
    assert together.num_batches_tracked == 2
    out_together.square().mul(out_together.detach()).sum().backward()
    out_apart.square().mul(out_apart.detach()).sum().backward()
    assert torch.equal(a.grad, b.grad)


def test_one_group_is_plain_batch_norm() -> None:
    grouped, plain = GroupedBatchNorm2d(3, 6), nn.BatchNorm2d(3)
    x = torch.randn(6, 3, 4, 4)
    assert torch.equal(grouped(x), plain(x))
    assert list(grouped.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(grouped.buffers(), plain.buffers(), strict=True))
    assert torch.equal(grouped.eval()(x[:5]), plain.eval()(x[:5]))


def test_can_be_differentiated_twice() -> None:
    norm = GroupedBatchNorm2d(2, 2).double()
    x = torch.randn(4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(norm, (x,), atol=1e-4)


def test_a_batch_that_is_no_multiple_of_the_group_is_refused() -> None:
    with pytest.raises(UserError, match="groups of 4 images, but got 6"):
        GroupedBatchNorm2d(3, 4)(torch.randn(6, 3, 2, 2))
    with pytest.raises(UserError, match="at least one"):
        GroupedBatchNorm2d(3, 0)
