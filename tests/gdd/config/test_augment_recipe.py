"""The recipe's `augment`: what belongs to which kind, and that recipes without it keep their text."""

from __future__ import annotations

from typing import Any

import pytest
from short_recipe import RECIPE

from gdd.config.recipe import PartialRecipe, Recipe
from gdd.config.record import parse
from gdd.errors import UserError


def recipe(augment: dict[str, Any]) -> Recipe:
    return parse(Recipe, {**RECIPE, "augment": augment}, "some.yaml")


@pytest.mark.parametrize(
    ("augment", "sentence"),
    [
        ({"kind": "dada"}, "'augment.kind' is 'dada': input should be 'none', 'diffaugment' or 'ada'."),
        ({"target": 0.5}, "'augment': 'target' belongs to 'kind: ada'."),
        ({"kind": "diffaugment", "speed_kimg": 100}, "'augment': 'speed_kimg' belongs to 'kind: ada'."),
        (
            {"kind": "ada", "policies": ["color"]},
            "'augment': 'policies' belongs to 'kind: diffaugment'.",
        ),
        (
            {"kind": "diffaugment", "policies": ["colour"]},
            "'augment.policies.0' is 'colour': input should be 'color', 'translation' or 'cutout'.",
        ),
        (
            {"kind": "diffaugment", "policies": ["color", "color"]},
            "'augment.policies' is ['color', 'color']: 'color' stands twice.",
        ),
        (
            {"kind": "diffaugment", "policies": []},
            "'augment.policies' is []: it needs at least one entry.",
        ),
        ({"kind": "ada", "target": 1}, "'augment.target' is 1: input should be less than 1."),
        ({"kind": "ada", "speed_kimg": 0}, "'augment.speed_kimg' is 0: input should be greater than 0."),
        ({"p": 0.5}, "unknown key 'augment.p'; allowed here: kind, policies, speed_kimg, target."),
    ],
)
def test_what_does_not_fit_is_refused(augment: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe(augment)
    assert str(caught.value) == f"some.yaml: {sentence}"


def test_there_has_to_be_a_discriminator() -> None:
    lone = {**RECIPE, "objective": {"instance": "direct"}}
    parse(Recipe, lone, "some.yaml")
    with pytest.raises(UserError, match="'augment' belongs to a 'distributional' objective"):
        parse(Recipe, {**lone, "augment": {"kind": "ada"}}, "some.yaml")


def test_recipes_without_augmentation_keep_their_text() -> None:
    plain = parse(Recipe, RECIPE, "some.yaml")
    assert "augment" not in plain.canonical()
    assert recipe({"kind": "none"}).fingerprint() == plain.fingerprint()
    texts = {recipe({"kind": kind}).fingerprint() for kind in ("none", "diffaugment", "ada")}
    assert len(texts) == 3
    ada = recipe({"kind": "ada", "target": 0.5})
    assert parse(Recipe, ada.model_dump(mode="json"), "some.yaml") == ada


def test_a_table_can_change_one_key_of_it() -> None:
    row = parse(PartialRecipe, {"augment": {"target": 0.5}}, "some.yaml")
    assert row.model_dump(mode="json", exclude_unset=True) == {"augment": {"target": 0.5}}
