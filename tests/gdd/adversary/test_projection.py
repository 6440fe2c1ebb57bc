from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gdd.adversary.projection import RandomProjection


def literal(projection: RandomProjection, taps: list[Tensor]) -> list[Tensor]:
    """The published order: upsample, then mix."""
    outputs: list[Tensor] = []
    for depth in reversed(range(len(taps))):
        x = projection.get_submodule(f"layer{depth}_ccm")(taps[depth])
        if outputs:
            x = x + outputs[-1]
        x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        outputs.append(projection.get_submodule(f"layer{depth}_csm.out_conv")(x))
    return outputs[::-1]


def test_agrees_with_the_reference(golden: Path) -> None:
    with np.load(golden / "discriminator" / "projected.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "meta"}
    weights = {
        name.removeprefix("projector/"): value
        for name, value in arrays.items()
        if name.startswith("projector/")
    }
    taps = [arrays[f"backbone_feature{i}"] for i in range(4)]
    projection = RandomProjection([tap.shape[1] for tap in taps], 8, seed=0)
    assert {name: value.shape for name, value in projection.state_dict().items()} == {
        name: value.shape for name, value in weights.items()
    }
    projection.load_state_dict(weights)
    outputs = projection(taps)
    for i, output in enumerate(outputs):
        assert output.shape == arrays[f"projected{i}"].shape
        assert (output - arrays[f"projected{i}"]).abs().max() < 1e-5
    assert projection.out_channels == tuple(output.shape[1] for output in outputs)


@pytest.mark.parametrize("sizes", [(8, 4, 2), (16, 8, 4, 2)])
def test_mixing_before_upsampling_is_the_published_order(sizes: tuple[int, ...]) -> None:
    channels = [3 + 2 * depth for depth in range(len(sizes))]
    projection = RandomProjection(channels, 8, seed=1).double()
    taps = [
        torch.randn(2, count, size, size, dtype=torch.float64, requires_grad=True)
        for count, size in zip(channels, sizes, strict=True)
    ]
    fast, slow = projection(taps), literal(projection, taps)
    assert [output.shape[2] for output in fast] == [2 * size for size in sizes]
    for a, b in zip(fast, slow, strict=True):
        assert torch.allclose(a, b, atol=1e-12)
    gradients = [torch.autograd.grad(sum(x.square().sum() for x in y), taps) for y in (fast, slow)]
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(*gradients, strict=True))


def test_outputs_that_are_not_upsampled_upsample_to_those_that_are() -> None:
    taps = [torch.randn(2, 4, size, size) for size in (8, 4, 2)]
    native = RandomProjection([4, 4, 4], 8, seed=1, upsampled=False)(taps)
    upsampled = RandomProjection([4, 4, 4], 8, seed=1)(taps)
    assert [output.shape[2] for output in native] == [8, 4, 2]
    for a, b in zip(native, upsampled, strict=True):
        a_upsampled = functional.interpolate(a, scale_factor=2, mode="bilinear", align_corners=True)
        assert torch.allclose(a_upsampled, b, atol=1e-6)


def test_weights_are_frozen_reproducible_and_leave_the_global_state() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = RandomProjection([2, 3], 4, seed=9)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second, other = RandomProjection([2, 3], 4, seed=9), RandomProjection([2, 3], 4, seed=10)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
        assert not torch.equal(value, other.state_dict()[name])
    assert not any(parameter.requires_grad for parameter in first.parameters())
    # PyTorch's default: uniform in +-1/sqrt(fan in), biases too.
    assert first.get_parameter("layer1_ccm.bias").abs().max() <= 3**-0.5
    assert first.get_parameter("layer1_ccm.bias").abs().min() > 0
