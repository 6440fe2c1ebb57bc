"""What the settings in config/ promise of each other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gdd.config.load import RULES, Config, load_config
from gdd.experiments import Experiments


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config("config")


def test_rates_are_searched_in_the_demo_setting_but_for_the_data(config: Config) -> None:
    experiments = Experiments(config)
    for method in config.methods:
        demo = experiments.find("digits", method).model_dump()
        search = experiments.find("digits-search", method).model_dump()
        different = {key for key in demo if demo[key] != search[key]}
        assert different <= {"dataset", "teacher", "backbones", "snapshot_every", "lr"}
        assert demo["lr"]["discriminator"] == search["lr"]["discriminator"]
        assert [name.replace("digits-train", "digits") for name in search["backbones"]] == list(
            demo["backbones"]
        )


def test_teachers_differ_only_in_data_or_seed(config: Config) -> None:
    first = config.teachers["digits"]
    assert config.teachers["digits-train"].training == first.training
    for name in ("digits-train", "digits-b"):
        assert config.teachers[name].architecture == first.architecture
    other = config.teachers["digits-b"].training
    assert other.seed != first.training.seed
    assert other.model_copy(update={"seed": first.training.seed}) == first.training


def test_the_judge_is_independent_of_the_discriminator(config: Config) -> None:
    for setting in config.settings.values():
        judge = config.features[setting.evaluation.extractor]
        for name in setting.recipe.backbones:
            network = config.features[name]
            assert network.architecture != judge.architecture
            assert network.seed != judge.seed


def test_the_names_of_rules_are_reserved() -> None:
    text = "".join(path.read_text() for path in [Path("Snakefile"), *Path("workflow/rules").glob("*.smk")])
    assert set(re.findall(r"^rule (\w+):", text, flags=re.MULTILINE)) == RULES
