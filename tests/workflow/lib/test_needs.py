"""What jobs need of a machine, and that it is asked for in the rules' words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gdd.config.config import load_config
from gdd.experiments import Experiments
from gdd.training.layout import lay_out
from workflow.lib.needs import Need, Needs
from workflow.lib.rules import PROGRESS, Rules


def papers(**local: Any) -> Rules:
    """Return the rules on a machine of which local.yaml says this."""
    rules = Rules()
    rules.config = replace(rules.config, local=rules.config.local.model_copy(update=local))
    rules.experiments.config = rules.config
    rules.needs = Needs(rules.experiments)
    return rules


def need(setting: str, run: str = "gdd", **local: Any) -> Need:
    return papers(**local).needs.distill(setting, run)


def test_settings_of_the_papers_take_the_gpus_of_the_papers_code() -> None:
    needs = papers().needs
    of = {name: needs.distill(name, "gdd") for name in needs.config.settings}
    assert {name: need.gpus for name, need in of.items()} == {
        **dict.fromkeys(("cifar10-uncond", "cifar10-cond", "ffhq", "afhqv2"), 4),
        **{"imagenet": 8, "digits": 0, "digits-search": 0},
    }
    assert all(need.nodes == 1 for need in of.values())
    assert (of["digits"].cores, of["digits"].memory_mb) == (1, 4000)
    hours = 5_000_000 / (4 * 29) / 3600
    assert of["cifar10-uncond"].hours == pytest.approx(hours)
    assert need("cifar10-uncond", gpus=2).hours == pytest.approx(2 * hours)


def test_a_rate_says_what_it_is_known_from() -> None:
    for setting in load_config("config").settings.values():
        assert setting.resources.rates
        for name, rate in setting.resources.rates.items():
            assert rate.source
            assert (rate.known == "measured") == (name == "cpu"), "nothing was measured on a GPU"


def test_the_machine_decides_how_many_but_not_for_the_digits() -> None:
    assert need("cifar10-uncond", gpus=1).gpus == 1
    without = need("cifar10-uncond", gpus=0)
    assert (without.gpus, without.hours) == (0, None)
    assert need("digits", gpus=8) == need("digits")
    spread = need("cifar10-uncond", gpus=8, nodes=2)
    assert (spread.gpus, spread.nodes, spread.memory_mb) == (8, 2, 32_000)
    # Of six, four share the four groups; an instance-based objective cannot split a group either.
    assert need("cifar10-uncond", gpus=6).gpus == 4
    assert need("cifar10-uncond", "cd", gpus=8).gpus == 4


def test_a_card_too_small_for_a_group_takes_more_gpus() -> None:
    small = need("imagenet", card="24 GB")
    rate = load_config("config").settings["imagenet"].resources.rates["24 GB"]
    recipe = Rules().experiments.find("imagenet", "gdd")
    assert lay_out(recipe, small.gpus).piece <= rate.at_once < 64
    assert need("imagenet", card="24 GB", gpus=2).gpus == 2


RUN = {"setting": "cifar10-uncond", "run": "gdd", "seed": "0"}
DIGITS = RUN | {"setting": "digits"}


def test_limits_of_time() -> None:
    def minutes(stage: str, names: dict[str, str], **local: Any) -> int:
        return papers(**local).resources(stage)["runtime"](names)

    assert minutes("distill", DIGITS) == 120
    assert minutes("distill", RUN) == pytest.approx(60 * 1.5 * 5e6 / 116 / 3600 + 30, abs=1)
    assert minutes("distill", RUN, longest_job=2) == 120
    assert minutes("evaluate_run", DIGITS) == 60
    assert minutes("features", {"name": "digits-judge"}) == 30


def test_evaluation_saves_what_it_did_after_every_block() -> None:
    needs = papers().needs
    teacher, run = needs.evaluate_teacher("cifar10-uncond", "t", "18"), needs.evaluate_run(**RUN)
    assert teacher.hours == pytest.approx(3 * teacher.stretch)
    assert run.stretch < teacher.stretch < (teacher.hours or 0)
    assert needs.distill(**RUN).stretch == 0
    pairs, reference = (
        needs.pairs("edm-cifar10-32x32-cond-ve", "18", "3000"),
        needs.reference("cifar10", "inception"),
    )
    for nothing_before_the_end in (pairs, reference):
        assert nothing_before_the_end.stretch == nothing_before_the_end.hours
        assert nothing_before_the_end.stretch > 0


def test_evaluation_takes_a_gpu_where_training_does() -> None:
    needs = papers().needs
    evaluations = [needs.evaluate_run(**names) for names in (RUN, DIGITS)]
    assert [of.gpus for of in evaluations] == [1, 0]
    assert (evaluations[1].cores, evaluations[1].memory_mb) == (1, 2000)
    assert needs.reference("cifar10", "inception").gpus == 1
    assert needs.reference("digits", "digits-judge").gpus == 0
    assert needs.pairs("digits-b", "18", "3000").gpus == 0
    assert needs.pairs("edm-cifar10-32x32-cond-ve", "18", "3000").gpus == 1
    assert papers(gpus=0).needs.evaluate_run(**RUN).gpus == 0


def test_only_what_is_known_of_the_cluster_is_asked_of_it() -> None:
    def of(stage: str, names: dict[str, str], **local: Any) -> dict[str, Any]:
        asked = papers(**local).resources(stage)
        return {name: asked[name](names) for name in ("slurm_partition", "slurm_account", "gpu_model")}

    assert set(of("distill", RUN).values()) == {None}
    cluster = {"partition": "gpu", "cpu_partition": "cpu", "account": "me", "gpu_model": "a100"}
    assert list(of("distill", RUN, **cluster).values()) == ["gpu", "me", "a100"]
    assert list(of("distill", DIGITS, **cluster).values()) == ["cpu", "me", None]
    assert of("dataset", {"dataset": "digits"}, partition="all")["slurm_partition"] == "all"


def test_progress_is_looked_for_where_it_is_written() -> None:
    from gdd.metrics.evaluate import BLOCKS, block_file
    from gdd.training.run_directory import RunDirectory

    names = {"setting": "s", "run": "r", "seed": "0", "teacher": "t", "external": "e"}
    found = {stage: template.format(**names) for stage, template in PROGRESS.items()}
    assert found["distill"] == str(RunDirectory(Path("results/runs/s/r/seed0"), "").checkpoints)
    assert found["teacher"] == str(RunDirectory(Path("results/teachers/t"), "").checkpoints)
    assert found["evaluate_run"] == f"results/runs/s/r/seed0/{BLOCKS}"
    from gdd import paths

    teacher, external = paths.teacher_metrics("t", "s", 18), paths.external_folder("s", "e") / "metrics.json"
    assert found["evaluate_teacher"] == str(block_file(teacher, 0).parent)
    assert found["evaluate_external"] == str(block_file(external, 0).parent)


def test_resources_are_no_part_of_a_recipe(config_folder: Any) -> None:
    before = config_folder.load().find("digits", "gdd").fingerprint()
    config_folder.change("settings/digits.yaml", ("resources",), ...)
    config_folder.write("local.yaml", "{gpus: 3, card: 40 GB}\n")
    experiments: Experiments = config_folder.load()
    assert experiments.find("digits", "gdd").fingerprint() == before
    # A setting that says nothing takes the machine's GPUs (two can share one group), nobody knows for how long.
    found = Needs(experiments).distill("digits", "gdd")
    assert (found.gpus, found.hours) == (2, None)
