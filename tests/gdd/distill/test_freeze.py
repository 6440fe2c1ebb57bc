"""Freeze policies: the published counts, exact names, and the user's own patterns."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdd.config.architecture import Architecture
from gdd.config.recipe import NamedPolicy
from gdd.distill.freeze import FREEZE_POLICIES, freeze, frozen_names
from gdd.errors import UserError
from gdd.networks.preconditioning import OneStepGenerator

NETWORK = OneStepGenerator(
    Architecture(
        model_type="SongUNet",
        img_resolution=8,
        img_channels=1,
        model_channels=16,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(4,),
        encoder_type="residual",
    )
)
NAMES = [name for name, _ in NETWORK.named_parameters()]


def teachers(golden: Path) -> list[tuple[dict[str, int], dict[str, int]]]:
    """Each published teacher's counts, and the size of each parameter its student has."""
    result = []
    for teacher in json.loads((golden / "edm_teachers.json").read_text()).values():
        left_out = {*teacher["buffers"], "model.map_augment.weight"}
        sizes = {name: prod(shape) for name, shape in teacher["tensors"].items() if name not in left_out}
        result.append((teacher, sizes))
    return result


@pytest.mark.parametrize(
    ("policy", "key"),
    [("conv", "frozen_conv"), ("conv+qkv", "frozen_conv_qkv"), ("conv+qkv+skip", "frozen_conv_qkv_skip")],
)
def test_published_counts(golden: Path, policy: str, key: str) -> None:
    for teacher, sizes in teachers(golden):
        assert sum(sizes.values()) == teacher["total_no_augment"]
        assert sum(sizes[name] for name in frozen_names(sizes, policy)) == teacher[key]


@pytest.mark.parametrize("policy", ["conv", "conv+qkv", "conv+qkv+skip"])
def test_policies_follow_the_rule_of_containing_both_keys(golden: Path, policy: str) -> None:
    keys = {"conv", "proj", "qkv", "skip"} & set(policy.replace("conv", "conv+proj").split("+"))
    for _, sizes in teachers(golden):
        expected = [
            name
            for name in sizes
            if any(place in name for place in ("block", "up", "down", "in"))
            and any(key in name for key in keys)
        ]
        assert frozen_names(sizes, policy) == expected


def test_what_gdd_i_trains() -> None:
    trained = [name for name in NAMES if name not in frozen_names(NAMES, "conv")]
    assert "model.enc.8x8_conv.weight" in trained  # the first and last convolution, and the residual path
    assert "model.dec.8x8_aux_conv.weight" in trained
    assert "model.enc.4x4_aux_residual.weight" in trained
    inside = {
        name.split(".")[3] for name in trained if any(k in name for k in ("block", "up", "down", "_in"))
    }
    assert inside == {"norm0", "affine", "norm1", "norm2", "qkv", "skip"}


def test_norms_only_trains_scales_and_shifts_of_norms(golden: Path) -> None:
    for sizes in [sizes for _, sizes in teachers(golden)] + [dict.fromkeys(NAMES, 0)]:
        frozen = set(frozen_names(sizes, "norms-only"))
        trained = {name.rsplit(".", 2)[-2] for name in sizes if name not in frozen}
        assert {"norm0", "norm1", "norm2"} < trained
        assert all(part.startswith("norm") or part.endswith("_norm") for part in trained)
        assert not any("norm" in name for name in frozen)
        assert len(trained) == 4  # and the last norm


@pytest.mark.parametrize("policy", [*FREEZE_POLICIES, ("model.enc.*", "!*norm*")])
def test_exactly_the_named_parameters_stop_requiring_gradients(policy: str | tuple[str, ...]) -> None:
    freeze(NETWORK, ("*",))
    assert not any(parameter.requires_grad for parameter in NETWORK.parameters())
    frozen = freeze(NETWORK, policy)
    assert [name for name, parameter in NETWORK.named_parameters() if not parameter.requires_grad] == frozen
    assert (frozen == []) == (policy == "none")


@settings(deadline=None)
@given(st.lists(st.sampled_from(NAMES), unique=True))
def test_a_list_of_names_freezes_those_in_the_networks_order(chosen: list[str]) -> None:
    assert frozen_names(NAMES, tuple(chosen)) == [name for name in NAMES if name in chosen]


def test_a_pattern_that_matches_nothing_is_named() -> None:
    with pytest.raises(UserError, match=r"freeze pattern '\*convolution\*' matches no parameter"):
        frozen_names(NAMES, ("*conv*", "*convolution*"))
    with pytest.raises(UserError, match="freeze pattern '!nothing' matches no parameter"):
        frozen_names(NAMES, ("*", "!nothing"))


def test_a_recipe_names_exactly_the_policies_there_are() -> None:
    assert get_args(NamedPolicy) == tuple(FREEZE_POLICIES)
