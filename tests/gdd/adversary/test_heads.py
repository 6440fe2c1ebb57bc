"""Heads against the reference's logits and their formulas; batch and spectral norm in groups and parts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gdd.adversary.discriminator import MultiScaleHeads
from gdd.adversary.heads import (
    EqualisedLinear,
    GroupedBatchNorm2d,
    Head,
    downsampling_head,
    local_head,
)
from gdd.adversary.spectral_norm import PowerIterations
from gdd.config.recipe import Heads
from gdd.randomness import seeded_weights

PUBLISHED = Heads(norm_group=2)
SMALL = Heads(kind="local", channels=4, norm_group=2)


def synthetic(name: str, shape: torch.Size, index: int, current: Tensor) -> Tensor:
    """The weights that the reference's logits were computed with."""
    if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
        return current
    count = shape.numel()
    k = np.arange(count, dtype=np.float64)
    u = (43758.5453 * np.sin(12.9898 * k + 78.233 * (index + 1))) % 1.0 - 0.5
    if name.endswith("weight_orig"):
        u = u * np.sqrt(12 / (count / shape[0]))
    elif name.endswith(("weight_u", "weight_v")):
        u = u / np.linalg.norm(u)
    elif name.endswith("bias") and current.ndim == 1 and ".main.1.bias" not in name:
        u = 0.2 * u
    elif ".main.1." in name:
        u = 0.2 * u + (1 if name.endswith("weight") else 0)
    elif name.endswith("embed_proj.weight"):
        u = u * np.sqrt(12)
    return torch.from_numpy(u.reshape(shape)).float()


@pytest.mark.slow
@pytest.mark.parametrize(("case", "label_dim"), [("uncond", 0), ("cond", 1000)])
def test_agrees_with_the_reference(golden: Path, case: str, label_dim: int) -> None:
    with np.load(golden / "discriminator" / "projected.npz") as file:
        features = [torch.from_numpy(file[f"projected{i}"]) for i in range(4)]
    with np.load(golden / "discriminator" / "heads.npz") as file:
        names = json.loads(str(file[f"params_{case}"]))
        expected = torch.from_numpy(file[f"logits_train_{case}"])
        labels = nn.functional.one_hot(torch.from_numpy(file["class_indices"]), 1000).float()
    pairs = zip(features, (32, 16, 8, 4), strict=True)
    heads = MultiScaleHeads(
        [downsampling_head(PUBLISHED, of_tap.shape[1], size, 4, label_dim) for of_tap, size in pairs]
    )
    state = heads.train().state_dict()
    assert [[name, list(value.shape)] for name, value in state.items()] == names
    numbered = enumerate(state.items())
    heads.load_state_dict({key: synthetic(key, value.shape, i, value) for i, (key, value) in numbered})
    torch.testing.assert_close(heads(features, labels if label_dim else None), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("start", "blocks"), [(128, [64, 128, 256, 512]), (64, [128, 256, 512]), (32, [256, 512]), (16, [512])]
)
def test_published_sizes(start: int, blocks: list[int]) -> None:
    def channels(head: Head) -> list[int]:
        return [block.main[0].out_channels for block in list(head.main)[:-1]]

    head = downsampling_head(PUBLISHED, 8, start, 8)
    assert channels(head) == blocks
    assert head.main[-1].kernel_size == (4, 4)
    quarter = downsampling_head(Heads(channels=16, norm_group=2), 8, start, 8)
    assert channels(quarter) == [count // 4 for count in blocks]
    assert quarter(torch.randn(2, 8, start, start)).shape == (2, 25)  # of the published input 5 x 5


@pytest.mark.parametrize("label_dim", [0, 3])
def test_local_heads_keep_the_resolution(label_dim: int) -> None:
    head = local_head(SMALL, 5, label_dim)
    assert head(torch.randn(2, 5, 4, 4), torch.eye(3)[[0, 2]]).shape == (2, 16)


def test_conditional_logits_are_the_scaled_product_with_the_class_embedding() -> None:
    table = torch.randn(5, 6).double()
    head = local_head(SMALL, 3, 3, table).double().eval()
    torch.testing.assert_close(head.embed.weight, table[:3], rtol=1e-6, atol=0)
    features = torch.randn(2, 3, 2, 2).double()
    hidden = head.cls(head.main(features))
    expected = torch.einsum("bchw,bc->bhw", hidden, head.embed_proj(head.embed.weight[[2, 0]])).flatten(1) / 8
    torch.testing.assert_close(head(features, torch.eye(3)[[2, 0]]), expected)


def test_equalised_linear() -> None:
    layer, x = EqualisedLinear(4, 2), torch.randn(3, 4)
    y = x @ layer.weight.T / 2 + layer.bias
    torch.testing.assert_close(layer(x), torch.where(y > 0, y, 0.2 * y) * 2**0.5)
    assert torch.equal(layer.bias, torch.zeros(2))


# --- norms; that a group may span processes is shown by `test_r1.py` ----------------------------------------


def test_one_pass_over_two_groups_is_two_passes_of_plain_batch_norm_to_the_bit() -> None:
    grouped, plain = GroupedBatchNorm2d(3, 4), nn.BatchNorm2d(3)
    for norm in (grouped, plain):
        norm.weight.data, norm.bias.data = torch.tensor([0.5, 1, 2]), torch.tensor([0.1, 0, -1])
    x = torch.randn(8, 3, 5, 5) * torch.linspace(0.5, 2, 8)[:, None, None, None]
    a, b = (x.clone().requires_grad_(True) for _ in range(2))
    out, expected = grouped(a), torch.cat([plain(b[:4]), plain(b[4:])])
    assert torch.equal(out, expected)
    for name in ("running_mean", "running_var"):
        assert torch.equal(grouped.state_dict()[name], plain.state_dict()[name]), name
    out.pow(3).sum().backward()
    expected.pow(3).sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    assert torch.equal(a.grad, b.grad)
    assert torch.equal(grouped.eval()(x[:5]), plain.eval()(x[:5]))


def test_a_pass_in_parts_makes_one_power_iteration() -> None:
    images = torch.randn(6, 3, 4, 4)
    with seeded_weights(0):
        whole = local_head(SMALL, 3).train()
    with seeded_weights(0):
        parted = local_head(SMALL, 3).train()
    iterations = PowerIterations(parted)
    for _ in range(2):  # steps of two passes
        iterations.begin()
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
