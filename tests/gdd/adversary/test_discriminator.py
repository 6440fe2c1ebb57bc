from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gdd.adversary.discriminator import ProjectedDiscriminator, build_discriminator
from gdd.adversary.feature_network import FeatureNetwork, SmallBackbone
from gdd.errors import UserError
from gdd.networks.classifier import SmallClassifier
from gdd.randomness import seeded_weights


def backbones() -> dict[str, FeatureNetwork]:
    result: dict[str, FeatureNetwork] = {}
    for seed, name in enumerate(("trained", "random")):
        with seeded_weights(seed):
            result[name] = SmallBackbone(SmallClassifier("plain", 4, 1, 10, 8))
    return result


def make(seed: int = 0, group: int = 4, label_dim: int = 0) -> ProjectedDiscriminator:
    return build_discriminator(
        backbones(),
        head="local",
        projection_channels=4,
        head_channels=4,
        group=group,
        seed=seed,
        label_dim=label_dim,
    )


def test_gives_the_logits_of_all_heads_by_backbone() -> None:
    discriminator, images = make(), torch.randn(4, 1, 8, 8)
    logits = discriminator(images)
    assert [tuple(of_backbone.shape) for of_backbone in logits] == [(4, 64 + 16 + 4)] * 2


def test_extract_then_logits_is_forward() -> None:
    discriminator, images = make(label_dim=3).eval(), torch.randn(4, 1, 8, 8)
    labels = torch.tensor([0, 1, 2, 0])
    features = discriminator.extract(images)
    for a, b in zip(discriminator.logits(features, labels), discriminator(images, labels), strict=True):
        assert torch.equal(a, b)


def test_downsampling_heads_fit_small_backbones() -> None:
    discriminator = build_discriminator(
        backbones(),
        head="downsampling",
        projection_channels=4,
        head_channels=4,
        group=2,
        seed=0,
        start_sizes=(16, 8, 4),
        end_size=4,
    )
    assert [of_backbone.shape for of_backbone in discriminator(torch.randn(2, 1, 8, 8))] == [(2, 27)] * 2


def test_only_heads_train() -> None:
    discriminator = make().train()
    trainable = {id(parameter) for parameter in discriminator.trainable_parameters()}
    discriminator.requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in discriminator.parameters())
    discriminator.requires_grad_(True)
    assert {id(p) for p in discriminator.parameters() if p.requires_grad} == trainable
    images = torch.randn(4, 1, 8, 8, requires_grad=True)
    torch.cat(discriminator(images), dim=1).sum().backward()
    assert images.grad is not None
    for name, parameter in discriminator.named_parameters():
        assert (parameter.grad is not None) == name.startswith("heads."), name
    assert discriminator.heads.training
    assert not any(module.training for module in discriminator.backbones["trained"].modules())


def test_state_leaves_the_backbones_out_and_round_trips(tmp_path: Path) -> None:
    first, second, images = make(0), make(1), torch.randn(4, 1, 8, 8)
    first(images)
    state = first.trainable_state()
    assert {name.split(".")[0] for name in state} == {"projections", "heads"}
    torch.save(state, tmp_path / "state.pt")
    second.load_trainable_state(torch.load(tmp_path / "state.pt", weights_only=True))
    for a, b in zip(first(images), second(images), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(RuntimeError, match=r"heads\.random"):
        make(label_dim=3).load_trainable_state(state)


def test_depends_on_its_seed_alone_and_each_part_has_its_own_weights() -> None:
    torch.manual_seed(0)
    first, before = make(3).trainable_state(), torch.get_rng_state()
    torch.manual_seed(1)
    second = make(3).trainable_state()
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = make(4).trainable_state()
    name = "heads.trained.mini_discs.0.main.3.weight_orig"
    weights = [
        first[name],
        first[name.replace("trained", "random")],
        first[name.replace(".0.", ".1.", 1)],
        other[name],
    ]
    assert len({tuple(weight.flatten().tolist()) for weight in weights}) == 4


def test_backbones_that_do_not_fit_the_heads_are_named() -> None:
    with pytest.raises(
        UserError, match=r"'trained' gives features at 3 depths, but .* need 4; choose 'local'"
    ):
        build_discriminator(
            backbones(), head="downsampling", projection_channels=4, head_channels=4, group=4, seed=0
        )
