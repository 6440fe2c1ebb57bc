"""What runs are called: readable, safe on every file system, and one name for one recipe."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gdd.config.recipe import Recipe
from gdd.experiments import Experiments
from gdd.run_ids import name_of

SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*[A-Za-z0-9_+-]")


@pytest.fixture(scope="module")
def experiments(pristine_config: Any) -> Experiments:
    found: Experiments = pristine_config.load()
    return found


def named(experiments: Experiments, changes: dict[str, Any], method: str = "gdd") -> tuple[str, Recipe]:
    recipe = experiments.recipe("digits", method, changes, "here")
    return name_of(recipe, experiments.method_recipes["digits"]), recipe


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "gdd"),
        ({"batch": 128}, "gdd.batch-128"),
        ({"lr": {"generator": 5e-5}}, "gdd.lr.generator-5e-05"),
        ({"r1": {"gamma": 1}, "batch": 128}, "gdd.batch-128.r1.gamma-1.0"),
        ({"freeze": "conv+qkv"}, "gdd.freeze-conv+qkv"),
        ({"reuse_fakes": False}, "gdd.reuse_fakes-false"),
        ({"backbones": ["digits-random"]}, "gdd.backbones-digits-random"),
        ({"heads": {"projections": 2}}, "gdd.heads.projections-2"),
        # What another method is, has that method's name.
        ({"freeze": "conv", "lr": {"generator": 1e-3}}, "gdd-i"),
        ({"freeze": "conv", "lr": {"generator": 1e-3}, "batch": 128}, "gdd-i.batch-128"),
        # Patterns are named by a digest.
        ({"freeze": ["model.*", "!*.norm?.*"]}, "gdd.freeze-model__+___norm___-174a0a0d"),
    ],
)
def test_names_say_what_is_different(experiments: Experiments, changes: dict[str, Any], name: str) -> None:
    assert named(experiments, changes)[0] == name


def test_a_key_that_is_put_back_to_its_default_is_a_difference(papers: Experiments) -> None:
    recipe = papers.recipe("cifar10-uncond", "gdd-i", {"backbone_statistics": "published"}, "here")
    name = name_of(recipe, papers.method_recipes["cifar10-uncond"])
    assert name == "gdd-i.backbone_statistics-published"


LONG = {
    "freeze": ["a" * 300],
    "images": 6400,
    "batch": 128,
    "lr": {"generator": 1.2345e-3, "discriminator": 1.2345e-3},
    "adam": {"beta1": 0.12345, "beta2": 0.98765},
    "ema": {"half_life": 12345, "ramp": 0.12345},
    "r1": {"gamma": 0.12345, "every": 7},
}
WORDS = ["conv", "conv+qkv", "conv.batch-128", "", "..", "/", "a/../b", "*", "!*", "\n", "é", "x" * 99]
POLICIES = st.sampled_from(["none", "conv", "conv+qkv", "conv+qkv+skip"])
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "freeze": POLICIES | st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=3),
        "batch": st.sampled_from([64, 128]),
        "reuse_fakes": st.booleans(),
        "backbone_statistics": st.sampled_from(["published", "release"]),
        "lr": st.fixed_dictionaries({}, optional={"generator": st.floats(1e-8, 1e8)}),
        "backbones": st.sampled_from([["digits-random"], ["digits-random", "digits-judge"]]),
        "objective": st.sampled_from([{"instance": "direct"}, {"instance": "direct", "pairs": 3}]),
        "teacher_sampler": st.fixed_dictionaries({"steps": st.integers(1, 20)}),
    },
)
METHODS = st.sampled_from(["gdd", "gdd-i", "direct"])


@settings(max_examples=20, deadline=None)
@given(methods=st.tuples(METHODS, METHODS), changes=st.tuples(CHANGES, CHANGES))
@example(methods=("gdd", "gdd"), changes=({"freeze": "conv"}, {"freeze": ["conv"]}))
@example(methods=("gdd", "gdd"), changes=({"freeze": "conv+qkv"}, {"freeze": ["conv", "qkv"]}))
@example(methods=("gdd", "gdd"), changes=({"freeze": ["a+b"]}, {"freeze": ["a", "b"]}))
@example(methods=("gdd", "gdd"), changes=({"freeze": []}, {"freeze": [""]}))
@example(methods=("gdd", "gdd"), changes=({"freeze": ["a.batch-128"]}, {"freeze": ["a"], "batch": 128}))
@example(methods=("gdd", "gdd"), changes=({"freeze": ["a/b"]}, {"freeze": ["a_b"]}))
@example(methods=("gdd", "gdd"), changes=({"freeze": ["x" * 99 + "y"]}, {"freeze": ["x" * 99 + "z"]}))
@example(methods=("gdd", "gdd"), changes=(LONG, LONG | {"r1": {"gamma": 0.12345, "every": 8}}))
@example(methods=("gdd", "gdd-i"), changes=({"freeze": "conv", "lr": {"generator": 1e-3}}, {}))
def test_safe_names_equal_if_and_only_if_the_recipes_are(
    experiments: Experiments, methods: tuple[str, str], changes: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    found = [named(experiments, *pair) for pair in zip(changes, methods, strict=True)]
    for (name, _), change, method in zip(found, changes, methods, strict=True):
        assert SAFE.fullmatch(name)
        assert len(name) < 200
        in_another_order = json.loads(json.dumps(change, sort_keys=True))
        assert named(experiments, in_another_order, method)[0] == name
    (one, first), (other, second) = found
    assert (one == other) == (first == second) == (first.fingerprint() == second.fingerprint())
