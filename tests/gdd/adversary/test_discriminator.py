"""The projection and the whole discriminator; the losses on its logits are in `distill/test_formulas.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gdd.adversary.backbones import SmallBackbone
from gdd.adversary.discriminator import ProjectedDiscriminator, build_discriminator
from gdd.adversary.projections import RandomProjection
from gdd.config.recipe import Heads
from gdd.errors import UserError
from gdd.networks.classifier import SmallClassifier
from gdd.randomness import derived_seed, seeded_weights

# --- projection -----------------------------------------------------------------------------------------


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
    taps = [arrays[f"backbone_feature{i}"] for i in range(4)]
    projection = RandomProjection([tap.shape[1] for tap in taps], 8)
    projection.load_state_dict(
        {name.removeprefix("projector/"): arrays[name] for name in arrays if name.startswith("projector/")}
    )
    outputs = projection(taps)
    for i, output in enumerate(outputs):
        torch.testing.assert_close(output, arrays[f"projected{i}"], rtol=0, atol=1e-5)
    assert projection.out_channels == tuple(output.shape[1] for output in outputs)


@pytest.mark.parametrize("sizes", [(8, 4, 2), (16, 8, 4, 2)])
def test_mixing_before_upsampling_is_the_published_order(sizes: tuple[int, ...]) -> None:
    channels = [3 + 2 * depth for depth in range(len(sizes))]
    projection = RandomProjection(channels, 8).double()
    taps = [
        torch.randn(2, count, size, size, dtype=torch.float64, requires_grad=True)
        for count, size in zip(channels, sizes, strict=True)
    ]
    fast, slow = projection(taps), literal(projection, taps)
    assert [output.shape[2] for output in fast] == [2 * size for size in sizes]
    torch.testing.assert_close(fast, slow)
    gradients = [torch.autograd.grad(sum(x.square().sum() for x in y), taps) for y in (fast, slow)]
    torch.testing.assert_close(*gradients)
    projection.upsampled = False  # what they are before they are upsampled
    for native, output in zip(projection(taps), fast, strict=True):
        larger = functional.interpolate(native, scale_factor=2, mode="bilinear", align_corners=True)
        torch.testing.assert_close(larger, output)


# --- the whole ------------------------------------------------------------------------------------------

LOCAL = Heads(kind="local", channels=4, projection_channels=4, norm_group=4)
DOWNSAMPLING = LOCAL.model_copy(update={"kind": "downsampling"})
IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def make(heads: Heads = LOCAL, seed: int = 0, label_dim: int = 0, **sizes: object) -> ProjectedDiscriminator:
    with seeded_weights(1):
        backbones = {
            name: SmallBackbone(SmallClassifier("plain", 4, 1, 10, 8)) for name in ("trained", "random")
        }
    return build_discriminator(backbones, heads, seed, label_dim, **sizes)  # type: ignore[arg-type]


def test_gives_the_logits_of_all_heads_by_backbone() -> None:
    assert [tuple(logits.shape) for logits in make()(IMAGES)] == [(4, 64 + 16 + 4)] * 2
    small = make(DOWNSAMPLING, start_sizes=(16, 8, 4), end_size=4)
    assert [tuple(logits.shape) for logits in small(IMAGES)] == [(4, 27)] * 2
    with pytest.raises(
        UserError, match=r"'trained' gives features at 3 depths, but .* need 4; choose 'local'"
    ):
        make(DOWNSAMPLING)


def test_only_heads_train() -> None:
    discriminator, images = make().train(), IMAGES.clone().requires_grad_(True)
    torch.cat(discriminator(images), dim=1).sum().backward()
    assert images.grad is not None
    for name, parameter in discriminator.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad == name.startswith("heads."), name
    assert discriminator.heads.training
    assert not any(module.training for module in discriminator.backbones["trained"].modules())


def test_each_group_of_images_has_its_projections() -> None:
    one, two = make(), make(LOCAL.model_copy(update={"projections": 2}))
    images = torch.cat([IMAGES, IMAGES])  # the same group twice
    for name in one.backbones:
        with seeded_weights(derived_seed(0, name, "projection")):
            expected = RandomProjection((4, 8, 16), 4, upsampled=False)
        found: list[dict[str, Tensor]] = [
            *(sets.state_dict() for sets in (one.projections[name][0], two.projections[name][0]))
        ]
        for key, value in expected.state_dict().items():
            assert all(torch.equal(state[key], value) for state in found)
    for taps, of_both in zip(one.extract(images), two.extract(images, [4, 6]), strict=True):
        assert all(torch.equal(tap, other) for tap, other in zip(taps, of_both, strict=True))
    both, first, second = two.extract(images, [6, 7]), two.extract(IMAGES, [0]), two.extract(IMAGES, [1])
    for taps, one_group, another in zip(both, first, second, strict=True):
        for tap, a, b in zip(taps, one_group, another, strict=True):
            torch.testing.assert_close(tap, torch.cat([a, b]))
            assert (a - b).norm() > 0.1 * a.norm()
    assert {name.split(".")[2] for name in two.trainable_state() if name.startswith("proj")} == {"0", "1"}


def test_state_leaves_the_backbones_out_and_round_trips(tmp_path: Path) -> None:
    first, second = make(seed=0), make(seed=1)
    first(IMAGES)
    state = first.trainable_state()
    assert {name.split(".")[0] for name in state} == {"projections", "heads"}
    torch.save(state, tmp_path / "state.pt")
    second.load_trainable_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(first(IMAGES), second(IMAGES), strict=True))
    with pytest.raises(RuntimeError, match=r"heads\.random"):
        make(label_dim=3).load_trainable_state(state)


def test_depends_on_its_seed_alone_and_each_part_has_its_own_weights() -> None:
    torch.manual_seed(0)
    first, before = make(seed=3).trainable_state(), torch.get_rng_state()
    torch.manual_seed(1)
    second = make(seed=3).trainable_state()
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    name = "heads.trained.mini_discs.0.main.3.weight_orig"
    names = (name, name.replace("trained", "random"), name.replace(".0.", ".1.", 1))
    weights = [*(first[name] for name in names), make(seed=4).trainable_state()[name]]
    assert len({tuple(weight.flatten().tolist()) for weight in weights}) == 4
