"""What runs are called: readable, safe on every file system, and one name for one recipe."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gdd.experiments import Experiments
from gdd.run_ids import name_of

SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
# What is made once for all examples is only read.
relaxed = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def experiments(config_folder: Any) -> Experiments:
    found: Experiments = config_folder.load()
    return found


def run_id(experiments: Experiments, changes: dict[str, Any], method: str = "gdd") -> str:
    recipe = experiments.recipe("digits", method, changes, "here")
    return name_of(recipe, experiments.method_recipes["digits"])


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
        ({"generator_steps": 2}, "gdd.generator_steps-2"),
        # What another method is, has that method's name.
        ({"freeze": "conv", "lr": {"generator": 1e-3}}, "gdd-i"),
        ({"freeze": "conv", "lr": {"generator": 1e-3}, "batch": 128}, "gdd-i.batch-128"),
    ],
)
def test_names_say_what_is_different(experiments: Experiments, changes: dict[str, Any], name: str) -> None:
    assert run_id(experiments, changes) == name


def test_patterns_are_named_by_a_digest(experiments: Experiments) -> None:
    name = run_id(experiments, {"freeze": ["model.*", "!*.norm?.*"]})
    assert re.fullmatch(r"gdd\.freeze-model__\+___norm___-[0-9a-f]{8}", name)


def test_a_long_name_is_cut(experiments: Experiments) -> None:
    changes = {
        "freeze": ["a" * 300],
        "images": 6400,
        "batch": 128,
        "lr": {"generator": 1.2345e-3, "discriminator": 1.2345e-3},
        "adam": {"beta1": 0.12345, "beta2": 0.98765},
        "ema": {"half_life": 12345, "ramp": 0.12345},
        "r1": {"gamma": 0.12345, "every": 7},
    }
    name = run_id(experiments, changes)
    assert len(name) < 200
    assert name != run_id(experiments, changes | {"r1": {"gamma": 0.12345, "every": 8}})


WORDS = [
    "conv",
    "qkv",
    "conv+qkv",
    "conv.batch-128",
    "",
    ".",
    "..",
    "/",
    "a/../b",
    "*",
    "!*",
    "\n",
    "é",
    "x" * 99,
]
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "freeze": st.sampled_from(["none", "conv", "conv+qkv", "conv+qkv+skip"])
        | st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=3),
        "batch": st.sampled_from([64, 128]),
        "init": st.sampled_from(["teacher", "random"]),
        "reuse_fakes": st.booleans(),
        "lr": st.fixed_dictionaries(
            {}, optional={"generator": st.floats(1e-8, 1e8), "discriminator": st.just(1)}
        ),
        "backbones": st.lists(
            st.sampled_from(["digits-random", "digits-judge"]), min_size=1, max_size=2, unique=True
        ),
        "objective": st.sampled_from(
            [
                {},
                {"instance": "direct"},
                {"instance": "direct", "pairs": 3},
                {"instance": "direct", "distance": "lpips"},
            ]
        ),
        "teacher_sampler": st.fixed_dictionaries({"steps": st.integers(1, 20)}),
    },
)
METHODS = st.sampled_from(["gdd", "gdd-i", "direct"])


@relaxed
@given(method=METHODS, changes=CHANGES)
def test_a_name_is_safe_on_every_file_system(
    experiments: Experiments, method: str, changes: dict[str, Any]
) -> None:
    name = run_id(experiments, changes, method)
    assert SAFE.fullmatch(name)
    assert len(name.encode()) < 200
    assert not name.endswith(".")
    assert name == run_id(experiments, json.loads(json.dumps(changes)), method)


@relaxed
@given(methods=st.tuples(METHODS, METHODS), changes=st.tuples(CHANGES, CHANGES))
@example(methods=("gdd", "gdd"), changes=({"freeze": "conv"}, {"freeze": ["conv"]}))
@example(methods=("gdd", "gdd"), changes=({"freeze": "conv+qkv"}, {"freeze": ["conv", "qkv"]}))
@example(methods=("gdd", "gdd"), changes=({"freeze": ["a+b"]}, {"freeze": ["a", "b"]}))
@example(methods=("gdd", "gdd"), changes=({"freeze": []}, {"freeze": [""]}))
@example(methods=("gdd", "gdd"), changes=({"freeze": ["a.batch-128"]}, {"freeze": ["a"], "batch": 128}))
@example(methods=("gdd", "gdd"), changes=({"freeze": ["a/b"]}, {"freeze": ["a_b"]}))
@example(methods=("gdd", "gdd"), changes=({"freeze": ["x" * 99 + "y"]}, {"freeze": ["x" * 99 + "z"]}))
@example(methods=("gdd", "gdd-i"), changes=({"freeze": "conv", "lr": {"generator": 1e-3}}, {}))
def test_equal_names_if_and_only_if_equal_recipes(
    experiments: Experiments, methods: tuple[str, str], changes: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    one, other = (
        experiments.recipe("digits", method, change, "here")
        for method, change in zip(methods, changes, strict=True)
    )
    methods_there = experiments.method_recipes["digits"]
    equal_names = name_of(one, methods_there) == name_of(other, methods_there)
    assert equal_names == (one == other)
    assert equal_names == (one.fingerprint() == other.fingerprint())


def test_the_order_of_keys_does_not_matter(experiments: Experiments) -> None:
    one = {"batch": 128, "r1": {"gamma": 0.5, "every": 4}, "init": "random"}
    other = {"init": "random", "r1": {"every": 4, "gamma": 0.5}, "batch": 128}
    assert run_id(experiments, one) == run_id(experiments, other)
