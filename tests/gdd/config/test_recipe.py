"""Recipes: what fits together, where snapshots fall, and the parts a recipe is merged from."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from short_recipe import RECIPE

from gdd.config.recipe import PartialRecipe, Recipe, TeacherRecipe
from gdd.config.record import parse
from gdd.errors import UserError

POLICIES = "'none', 'conv', 'conv+qkv', 'conv+qkv+skip' or 'norms-only', or a list"
GROUPS = "'batch' ({}) cannot be divided into groups of 'heads.norm_group' ({}) images; make it a multiple."
TEACHER = {"images": 100, "batch": 10, "lr": 1e-3, "ema": {"half_life": 10}}


def refusal(kind: Any, data: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        parse(kind, data, "some.yaml")
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence.removeprefix("some.yaml: ")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"backbones": []}, "a distributional objective needs at least one network in 'backbones'."),
        ({"batch": 96}, GROUPS.format(96, 64)),
        ({"heads": {"norm_group": 48}}, GROUPS.format(64, 48)),
        ({"images": 63}, "'images' (63) is less than one 'batch' (64)."),
        ({"snapshot_every": 1001}, "'snapshot_every' (1001) exceeds 'images' (1000)."),
        ({"freeze": "cnov"}, f"'freeze' is 'cnov': input should be {POLICIES}."),
        ({"backbones": ["a", "a"]}, "'backbones' is ['a', 'a']: 'a' stands twice."),
        ({"images": 0}, "'images' is 0: input should be greater than 0."),
        (
            {"lr": {"generator": 0, "discriminator": 1}},
            "'lr.generator' is 0: input should be greater than 0.",
        ),
        ({"adam": {"beta2": 1.0}}, "'adam.beta2' is 1.0: input should be less than 1."),
        (
            {"objective": {"instance": "direct"}, "generator_steps": 2},
            "'instance: direct' ties one noise to one image, and a generator of several steps takes more "
            "noise; set 'generator_steps' to 1.",
        ),
        (
            {"objective": {"instance": "direct"}, "teacher_sampler": {"steps": 2, "churn": 10.0}},
            "'instance: direct' imitates the end of the teacher's ODE, which needs a deterministic sampler; set "
            "'teacher_sampler.churn' to 0.",
        ),
    ],
)
def test_what_does_not_fit_together(change: dict[str, Any], sentence: str) -> None:
    assert refusal(Recipe, RECIPE | change) == sentence


def test_an_instance_objective_needs_no_backbones() -> None:
    recipe = parse(Recipe, RECIPE | {"objective": {"instance": "direct"}, "backbones": []}, "some.yaml")
    assert recipe.backbones == ()


def test_teachers_recipe() -> None:
    assert parse(TeacherRecipe, TEACHER, "some.yaml").p_mean == -1.2
    assert refusal(TeacherRecipe, TEACHER | {"images": 9}) == "'images' (9) is less than one 'batch' (10)."
    assert "input should be a finite number" in refusal(TeacherRecipe, TEACHER | {"p_mean": float("nan")})


@pytest.mark.parametrize(
    ("images", "every", "snapshots"),
    [(1000, 300, [300, 600, 900, 1000]), (900, 300, [300, 600, 900]), (64, 64, [64])],
)
def test_snapshots(images: int, every: int, snapshots: list[int]) -> None:
    recipe = parse(Recipe, RECIPE | {"images": images, "snapshot_every": every}, "some.yaml")
    assert recipe.snapshots() == snapshots


@given(images=st.integers(64, 5000), every=st.integers(1, 5000))
def test_the_last_snapshot_is_the_end_of_the_run(images: int, every: int) -> None:
    every = min(every, images)
    snapshots = parse(Recipe, RECIPE | {"images": images, "snapshot_every": every}, "some.yaml").snapshots()
    assert snapshots[-1] == images
    assert snapshots == sorted(set(snapshots))
    assert all(count % every == 0 for count in snapshots[:-1])


def test_published_defaults() -> None:
    recipe = parse(Recipe, RECIPE, "some.yaml")
    # GDD (arXiv:2405.20750): Adam(0, 0.99), lazy R1 every 16 iterations, EMA with a ramp of 0.05.
    assert (recipe.adam.beta1, recipe.adam.beta2) == (0.0, 0.99)
    assert (recipe.r1.gamma, recipe.r1.every) == (1e-4, 16)
    assert recipe.ema.ramp == 0.05
    assert (recipe.init, recipe.freeze, recipe.precision) == ("teacher", "none", "float32")
    assert not recipe.reuse_fakes


# Parts


def test_any_key_of_a_part_may_be_left_out() -> None:
    for key, value in RECIPE.items():
        part = parse(PartialRecipe, {key: value}, "some.yaml")
        assert part.model_fields_set == {key}
    assert parse(PartialRecipe, {"lr": {"generator": 0.1}}, "some.yaml").lr.model_fields_set == {"generator"}
    # Checks of several keys wait for the whole.
    parse(PartialRecipe, {"batch": 3, "objective": {"pairs": 3}}, "some.yaml")


def test_a_part_has_the_same_keys_and_types() -> None:
    assert set(PartialRecipe.model_fields) == set(Recipe.model_fields)
    allowed = ", ".join(sorted(Recipe.model_fields))
    assert refusal(PartialRecipe, {"bacth": 1}) == f"unknown key 'bacth'; allowed here: {allowed}."
    assert refusal(PartialRecipe, {"batch": 0}) == "'batch' is 0: input should be greater than 0."
    assert refusal(PartialRecipe, {"r1": {"gama": 0}}) == "unknown key 'r1.gama'; allowed here: every, gamma."


@pytest.mark.parametrize(
    ("data", "key"), [({"batch": None}, "batch"), ({"lr": {"generator": None}}, "lr.generator")]
)
def test_a_key_without_a_value_is_refused_where_it_stands(data: dict[str, Any], key: str) -> None:
    assert refusal(PartialRecipe, data) == f"'{key}' is empty: give it a value or leave the key out."


def test_a_part_can_take_away_a_loss() -> None:
    part = parse(PartialRecipe, {"objective": {"distributional": None}}, "some.yaml")
    assert part.objective.model_fields_set == {"distributional"}


# Objectives


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [
        ({"instance": "progressive", "pairs": 3}, "'pairs' belongs to 'instance: direct'"),
        (
            {"instance": "direct", "grid": 4},
            "'grid' belongs to 'instance': progressive, consistency, consistency-trajectory or "
            "reverse-consistency",
        ),
        ({"distributional": "hinge", "distance": "lpips"}, "'distance' belongs to an 'instance' objective"),
        (
            {"instance": "progressive"},
            "'instance: progressive' halves its 'grid' down to single steps, which 18 do not allow; give a power "
            "of two, such as 16",
        ),
        ({"instance": "progressive", "grid": 1}, "which 1 do not allow; give a power of two, such as 16"),
        (
            {"instance": "consistency-trajectory", "grid": 1},
            "'instance: consistency-trajectory' needs a 'grid' of at least 2 steps",
        ),
    ],
)
def test_keys_belong_to_their_objective(objective: dict[str, Any], sentence: str) -> None:
    refused = refusal(Recipe, RECIPE | {"objective": objective})
    assert refused.startswith("'objective': ")
    assert refused.endswith(f"{sentence}.")


# Augmentation


@pytest.mark.parametrize(
    ("augment", "sentence"),
    [
        ({"target": 0.5}, "'augment': 'target' belongs to 'kind: ada'."),
        ({"kind": "diffaugment", "speed_kimg": 100}, "'augment': 'speed_kimg' belongs to 'kind: ada'."),
        ({"kind": "ada", "policies": ["color"]}, "'augment': 'policies' belongs to 'kind: diffaugment'."),
        (
            {"kind": "diffaugment", "policies": ["color", "color"]},
            "'augment.policies' is ['color', 'color']: 'color' stands twice.",
        ),
        ({"kind": "ada", "target": 1}, "'augment.target' is 1: input should be less than 1."),
    ],
)
def test_augmentation_that_does_not_fit_is_refused(augment: dict[str, Any], sentence: str) -> None:
    assert refusal(Recipe, RECIPE | {"augment": augment}) == sentence


def test_augmentation_needs_a_discriminator() -> None:
    lone = RECIPE | {"objective": {"instance": "direct"}}
    parse(Recipe, lone, "some.yaml")
    sentence = refusal(Recipe, lone | {"augment": {"kind": "ada"}})
    assert sentence.startswith("'augment' belongs to a 'distributional' objective")
