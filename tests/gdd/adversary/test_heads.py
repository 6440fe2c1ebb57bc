from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gdd.adversary.discriminator import MultiScaleHeads
from gdd.adversary.heads import EqualisedLinear, downsampling_head, local_head
from gdd.errors import UserError


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


@pytest.mark.parametrize(("case", "label_dim"), [("uncond", 0), ("cond", 1000)])
def test_agrees_with_the_reference(golden: Path, case: str, label_dim: int) -> None:
    with np.load(golden / "discriminator" / "projected.npz") as file:
        features = [torch.from_numpy(file[f"projected{i}"]) for i in range(4)]
    with np.load(golden / "discriminator" / "heads.npz") as file:
        names = json.loads(str(file[f"params_{case}"]))
        expected = torch.from_numpy(file[f"logits_train_{case}"])
        classes = torch.from_numpy(file["class_indices"])
    channels = [feature.shape[1] for feature in features]
    heads = MultiScaleHeads(
        [
            downsampling_head(count, size, 4, group=2, seed=0, label_dim=label_dim)
            for count, size in zip(channels, (32, 16, 8, 4), strict=True)
        ]
    ).train()
    state = heads.state_dict()
    assert [[name, list(value.shape)] for name, value in state.items()] == names
    heads.load_state_dict(
        {
            name: synthetic(name, value.shape, index, value)
            for index, (name, value) in enumerate(state.items())
        }
    )
    logits = heads(features, classes if label_dim else None)
    assert logits.shape == expected.shape
    assert (logits - expected).abs().max() < 1e-4
    if label_dim:
        one_hot = torch.nn.functional.one_hot(classes, label_dim).float()
        heads.eval()
        assert torch.equal(heads(features, one_hot), heads(features, classes))


@pytest.mark.parametrize(
    ("start", "blocks"), [(128, [64, 128, 256, 512]), (64, [128, 256, 512]), (32, [256, 512]), (16, [512])]
)
def test_published_sizes(start: int, blocks: list[int]) -> None:
    head = downsampling_head(8, start, 8, group=2, seed=0)
    assert [block.main[0].out_channels for block in list(head.main)[:-1]] == blocks
    assert head.main[-1].kernel_size == (4, 4)
    quarter = downsampling_head(8, start, 8, group=2, seed=0, head_channels=16)
    assert [block.main[0].out_channels for block in list(quarter.main)[:-1]] == [n // 4 for n in blocks]


def test_logits_of_the_published_input_are_5_by_5() -> None:
    assert downsampling_head(4, 16, 8, group=2, seed=0, head_channels=2)(torch.randn(2, 4, 16, 16)).shape == (
        2,
        25,
    )


@pytest.mark.parametrize("label_dim", [0, 3])
def test_local_heads_keep_the_resolution(label_dim: int) -> None:
    head = local_head(5, 8, group=2, seed=0, label_dim=label_dim)
    labels = torch.eye(3)[[0, 2]] if label_dim else None
    assert head(torch.randn(2, 5, 4, 4), labels).shape == (2, 16)


def test_conditional_logits_are_the_scaled_product_with_the_class_embedding() -> None:
    table = torch.randn(5, 6)
    head = local_head(3, 4, group=2, seed=0, label_dim=3, embedding=table).eval()
    assert torch.equal(head.embed.weight, table[:3])
    features, classes = torch.randn(2, 3, 2, 2), torch.tensor([2, 0])
    hidden = head.cls(head.main(features))
    weights = head.embed_proj(table[classes])
    assert torch.allclose(
        head(features, classes), torch.einsum("bchw,bc->bhw", hidden, weights).flatten(1) / 8, atol=1e-6
    )


def test_equalised_linear() -> None:
    layer = EqualisedLinear(4, 2)
    x = torch.randn(3, 4)
    y = x @ layer.weight.T / 2 + layer.bias
    assert torch.allclose(layer(x), torch.where(y > 0, y, 0.2 * y) * 2**0.5)
    assert torch.equal(layer.bias, torch.zeros(2))


def test_a_conditional_head_asks_for_labels() -> None:
    head = local_head(3, 4, group=2, seed=0, label_dim=3)
    with pytest.raises(UserError, match="needs class labels"):
        head(torch.randn(2, 3, 4, 4))
