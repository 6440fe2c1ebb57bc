"""Freeze policies: the published counts, exact names, the user's own patterns, and how one is added."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from short_recipe import RECIPE

from gdd.config.architecture import Architecture
from gdd.config.freeze import FREEZE_POLICIES, frozen_names
from gdd.config.recipe import Recipe
from gdd.config.record import parse
from gdd.distill.distill import freeze
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
PUBLISHED = {
    "conv": ("frozen_conv", ("conv", "proj")),
    "conv+qkv": ("frozen_conv_qkv", ("conv", "proj", "qkv")),
    "conv+qkv+skip": ("frozen_conv_qkv_skip", ("conv", "proj", "qkv", "skip")),
}


@pytest.mark.parametrize("policy", PUBLISHED)
def test_published_counts_by_the_rule_of_containing_both_keys(golden: Path, policy: str) -> None:
    count, keys = PUBLISHED[policy]
    for teacher in json.loads((golden / "edm_teachers.json").read_text()).values():
        left_out = {*teacher["buffers"], "model.map_augment.weight"}
        sizes = {name: prod(shape) for name, shape in teacher["tensors"].items() if name not in left_out}
        frozen = frozen_names(sizes, policy)
        assert sum(sizes.values()) == teacher["total_no_augment"]
        assert sum(sizes[name] for name in frozen) == teacher[count]
        inside = [name for name in sizes if any(place in name for place in ("block", "up", "down", "in"))]
        assert frozen == [name for name in inside if any(key in name for key in keys)]


def test_what_gdd_i_trains() -> None:
    trained = [name for name in NAMES if name not in frozen_names(NAMES, "conv")]
    assert "model.enc.8x8_conv.weight" in trained  # the first and last convolution, and the residual path
    assert "model.dec.8x8_aux_conv.weight" in trained
    assert "model.enc.4x4_aux_residual.weight" in trained
    inside = {
        name.split(".")[3] for name in trained if any(k in name for k in ("block", "up", "down", "_in"))
    }
    assert inside == {"norm0", "affine", "norm1", "norm2", "qkv", "skip"}


def test_norms_only_trains_scales_and_shifts_of_norms() -> None:
    trained = [name for name in NAMES if name not in frozen_names(NAMES, "norms-only")]
    assert {name.rsplit(".", 2)[-2] for name in trained} == {"norm0", "norm1", "norm2", "8x8_aux_norm"}
    assert trained == [name for name in NAMES if "norm" in name]


@pytest.mark.parametrize("policy", [*FREEZE_POLICIES, ("model.enc.*", "!*norm*")])
def test_exactly_the_named_parameters_stop_requiring_gradients(policy: str | tuple[str, ...]) -> None:
    freeze(NETWORK, policy)
    still = [name for name, parameter in NETWORK.named_parameters() if not parameter.requires_grad]
    assert still == frozen_names(NAMES, policy)
    assert (still == []) == (policy == "none")


@settings(deadline=None)
@given(st.lists(st.sampled_from(NAMES), unique=True))
def test_a_list_of_names_freezes_those_in_the_networks_order(chosen: list[str]) -> None:
    assert frozen_names(NAMES, tuple(chosen)) == [name for name in NAMES if name in chosen]


@pytest.mark.parametrize("patterns", [("*conv*", "*nothing*"), ("*", "!*nothing*")])
def test_a_pattern_that_matches_nothing_is_named(patterns: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"freeze pattern '!?\*nothing\*' matches no parameter"):
        frozen_names(NAMES, patterns)


def test_a_new_entry_is_all_that_a_policy_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = RECIPE | {"freeze": "encoder"}
    with pytest.raises(UserError, match=r"'freeze' is 'encoder': input should be 'none', .*, or a list"):
        parse(Recipe, data, "some.yaml")
    monkeypatch.setitem(FREEZE_POLICIES, "encoder", ("*.enc.*",))
    assert "encoder" in str(Recipe.model_json_schema()["properties"]["freeze"])
    freeze(NETWORK, parse(Recipe, data, "some.yaml").freeze)
    assert all(parameter.requires_grad != (".enc." in name) for name, parameter in NETWORK.named_parameters())
