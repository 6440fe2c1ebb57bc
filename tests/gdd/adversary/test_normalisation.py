from __future__ import annotations

import torch
from torch import nn

from gdd.adversary.heads import local_head
from gdd.adversary.normalisation import GroupedBatchNorm2d, PowerIterations

# That a group may span processes is shown by `test_r1.py`.


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


def test_a_pass_in_parts_makes_one_power_iteration() -> None:
    images = torch.randn(6, 3, 4, 4)
    whole, parted = (local_head(3, 4, group=2, seed=0).train() for _ in range(2))
    iterations = PowerIterations(parted)
    for _ in range(2):  # steps of two passes
        iterations.begin(3)
        expected = [whole(images), whole(images.flip(0))]
        found = {}
        for part in range(3):
            for name, given in (("fakes", images), ("reals", images.flip(0))):
                with iterations.of_pass(name):
                    found[name, part] = parted(given[2 * part : 2 * part + 2])
        for name, logits in zip(("fakes", "reals"), expected, strict=True):
            pieces = torch.cat([found[name, part] for part in range(3)])
            torch.testing.assert_close(pieces, logits, rtol=1e-5, atol=1e-6)
        sum(logits.sum() for logits in found.values()).backward()  # no vector was changed in place since
        for name, value in whole.state_dict().items():
            if name.endswith(("weight_u", "weight_v")):
                assert torch.equal(parted.state_dict()[name], value), name
    assert all(module.training for module in parted.modules())
