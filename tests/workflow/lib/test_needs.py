"""What jobs need of a machine, and that it is asked for in the rules' words."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gdd import paths
from gdd.errors import UserError
from gdd.metrics.evaluate import BLOCKS, block_file
from gdd.training.layout import lay_out
from gdd.training.run_directory import RunDirectory
from workflow.lib.needs import Need, Needs
from workflow.lib.rules import PROGRESS, Rules

CIFAR10, COND = "cifar10-uncond", "edm-cifar10-32x32-cond-ve"
RUN = {"setting": CIFAR10, "run": "gdd", "seed": "0"}
DIGITS = RUN | {"setting": "digits"}
On = Callable[..., Rules]


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of results in which nothing is."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results"


def write_probe(folder: Path, card: str, gb: int, setting: str, **of: Any) -> None:
    """Write what `gdd probe` could have measured on a card."""
    measured = {"provenance": {"date": "2026-01-01"}, "speeds": [], "errors": {}}
    measured |= {"generating": 400.0, "evaluating": 2000.0, **of}
    (folder / "probe").mkdir(parents=True, exist_ok=True)
    content = {"card": card, "gb": gb, "settings": {setting: measured}}
    (folder / "probe" / f"{card}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def on() -> On:
    """Return the rules on a machine of which local.yaml says this."""
    original = Rules()
    assert original.experiments.recipes  # which take a second, and every copy has then

    def machine(**local: Any) -> Rules:
        rules, experiments = copy.copy(original), copy.copy(original.experiments)
        rules.config = replace(rules.config, local=rules.config.local.model_copy(update=local))
        experiments.config = rules.config
        rules.experiments, rules.needs = experiments, Needs(experiments)
        return rules

    return machine


@pytest.fixture(scope="module")
def need(on: On) -> Callable[..., Need]:
    """Return what a run needs."""
    return lambda setting, run="gdd", **local: on(**local).needs.distill(setting, run)


def test_a_teacher_is_trained_on_a_gpu_where_its_data_set_is_learned_on_gpus(on: On) -> None:
    rules = on()
    small = rules.needs.teacher("digits")
    assert (small.gpus, small.cores, small.memory_mb) == (0, 2, 4000)
    settings = dict(rules.config.settings)
    for name in ("digits", "digits-search"):
        resources = settings[name].resources.model_copy(update={"gpus": 4})
        settings[name] = settings[name].model_copy(update={"resources": resources})
    rules.needs.config = replace(rules.config, settings=settings)
    assert rules.needs.teacher("digits").gpus == 1
    local = rules.config.local.model_copy(update={"gpus": 0})
    rules.needs.config = replace(rules.config, settings=settings, local=local)
    assert rules.needs.teacher("digits") == small


def test_settings_of_the_papers_take_the_gpus_of_the_papers_code(on: On) -> None:
    needs = on().needs
    of = {name: needs.distill(name, "gdd") for name in needs.config.settings}
    assert {name: need.gpus for name, need in of.items()} == {
        **dict.fromkeys((CIFAR10, "cifar10-cond", "ffhq", "afhqv2"), 4),
        **{"imagenet": 8, "digits": 0, "digits-search": 0, "cifar10-quick": 1},
    }
    assert all(need.nodes == 1 for need in of.values())
    assert (of["digits"].cores, of["digits"].memory_mb) == (1, 4000)
    hours = 5_000_000 / (4 * 29) / 3600
    assert of[CIFAR10].hours == pytest.approx(hours)
    assert on(gpus=2).needs.distill(CIFAR10, "gdd").hours == pytest.approx(2 * hours)


def test_a_rate_says_what_it_is_known_from(on: On) -> None:
    for setting in on().config.settings.values():
        assert setting.resources.rates
        for name, rate in setting.resources.rates.items():
            assert rate.source
            assert (rate.known == "measured") == (name == "cpu"), "nothing was measured on a GPU"


def test_the_machine_decides_how_many_but_not_for_the_digits(on: On, need: Callable[..., Need]) -> None:
    assert need(CIFAR10, gpus=1).gpus == 1
    without = need(CIFAR10, gpus=0)
    assert (without.gpus, without.hours) == (0, None)
    assert need("digits", gpus=8) == need("digits")
    spread = need(CIFAR10, gpus=8, nodes=2)
    assert (spread.gpus, spread.nodes, spread.memory_mb) == (8, 2, 32_000)
    # Of six, four share the four groups; an instance-based objective cannot split a group either.
    assert need(CIFAR10, gpus=6).gpus == 4
    assert need(CIFAR10, "cd", gpus=8).gpus == 4
    # A card too small for a group takes more of them.
    rate, recipe = (
        on().config.settings["imagenet"].resources.rates["24 GB"],
        on().experiments.find("imagenet", "gdd"),
    )
    assert lay_out(recipe, need("imagenet", card=24).gpus).piece <= rate.at_once < 64
    assert need("imagenet", card=24, gpus=2).gpus == 2


@pytest.mark.parametrize(
    ("card", "hours", "known"),
    [
        (None, 29, "reported"),
        (80, 29, "reported"),
        (141, 29, "reported for a card of 80 GB"),
        (45, 29, "reported for a card of 40 GB"),
        (39, 15, "estimated for a card of 24 GB"),
        (16, None, "unknown"),
    ],
)
def test_a_card_of_another_memory_counts_as_the_next_smaller_one(
    need: Callable[..., Need], card: int | None, hours: float | None, known: str
) -> None:
    found = need(CIFAR10, card=card, gpus=1)
    assert found.known == known
    assert found.hours == (None if hours is None else pytest.approx(5e6 / hours / 3600))


def test_what_was_probed_counts_from_then_on(on: On, need: Callable[..., Need], results: Path) -> None:
    def training(rate: float) -> Any:
        return pytest.approx(5e6 / rate / 3600)

    written = need("imagenet", gpus=1)
    speeds = {"float32": {"64": 100.0, "128": 120.0}, "tf32": {"64": 200.0}}
    write_probe(results, "NVIDIA-X", 45, CIFAR10, training=speeds)
    whole, quarter = need(CIFAR10, gpus=1), need(CIFAR10, gpus=4)
    assert (whole.hours, whole.known) == (training(120), "probed here")
    assert (quarter.hours, quarter.known) == (training(400), "probed here")  # 64 images on each
    assert need(CIFAR10, gpus=1, tf32=True).hours == training(200)
    assert (
        need(CIFAR10, gpus=1, card=45).hours == need(CIFAR10, gpus=1, card="NVIDIA-X").hours == training(120)
    )
    assert need(CIFAR10, gpus=1, card=80).known == "reported"  # another card than the one that was probed
    assert need("cifar10-quick", "gdd-i").known == "probed here"  # which is like the probed one
    evaluation = on().needs.evaluate_teacher(CIFAR10, "t", "1")
    assert evaluation.known == "probed here"
    # A setting that was not probed goes by what is written of a card no larger than this one.
    other = need("imagenet", gpus=1)
    assert (other.hours, other.known) == (written.hours, "reported for a card of 40 GB")
    minutes = on(gpus=1).resources("distill")["runtime"](RUN)
    assert minutes == pytest.approx(60 * 1.5 * 5e6 / 120 / 3600 + 30, abs=1)


def test_a_core_that_was_probed_counts_for_what_runs_on_the_cpu(
    need: Callable[..., Need], results: Path
) -> None:
    write_probe(results, "cpu", 0, "digits", training={"float32": {"64": 100.0}})
    found = need("digits")
    assert (found.hours, found.known) == (pytest.approx(19_200 / 100 / 3600), "probed here")
    assert need("digits", tf32=True) == found
    assert need(CIFAR10).known == "reported"


def test_a_card_that_was_not_probed_is_refused(need: Callable[..., Need]) -> None:
    with pytest.raises(
        UserError, match=r"'card' is NVIDIA-X, but there is no .*NVIDIA-X\.json; run `gdd probe`"
    ):
        need(CIFAR10, card="NVIDIA-X")


def test_gpus_whose_memory_holds_no_part_of_the_batch(on: On) -> None:
    def refuse(**local: Any) -> None:
        job = SimpleNamespace(rule=SimpleNamespace(name="distill"), wildcards=RUN | {"setting": "imagenet"})
        on(**local).refuse_too_few_gpus([job])

    for local in ({}, {"card": 24}, {"card": 24, "gpus": 16}, {"gpus": 1}, {"gpus": 0}):
        refuse(**local)
    with pytest.raises(UserError) as caught:
        refuse(card=24, gpus=2)
    assert str(caught.value).startswith(
        "The run imagenet/gdd would have 2 GPUs, each of which holds 32 images at once (estimated), but has to "
        "take 128; give 'gpus' or 'card' in "
    )


def test_limits_of_time(on: On) -> None:
    def minutes(stage: str, names: dict[str, str], **local: Any) -> int:
        return on(**local).resources(stage)["runtime"](names)

    assert minutes("distill", DIGITS) == 120
    assert minutes("distill", RUN) == pytest.approx(60 * 1.5 * 5e6 / 116 / 3600 + 30, abs=1)
    assert minutes("distill", RUN, longest_job=2) == 120
    assert minutes("evaluate_run", DIGITS) == 60
    assert minutes("features", {"name": "digits-judge"}) == 30


def test_evaluation_saves_what_it_did_after_every_block(on: On) -> None:
    needs = on().needs
    teacher, run = needs.evaluate_teacher(CIFAR10, "t", "18"), needs.evaluate_run(**RUN)
    assert teacher.hours == pytest.approx(3 * teacher.stretch)
    assert run.stretch < teacher.stretch < (teacher.hours or 0)
    assert needs.distill(**RUN).stretch == 0
    for saved_at_the_end in (needs.pairs(COND, "18", "3000"), needs.reference("cifar10", "inception")):
        assert saved_at_the_end.stretch == saved_at_the_end.hours
        assert saved_at_the_end.stretch > 0


def test_evaluation_takes_a_gpu_where_training_does(on: On) -> None:
    needs = on().needs
    digits = needs.evaluate_run(**DIGITS)
    assert (digits.gpus, digits.cores, digits.memory_mb) == (0, 1, 2000)
    assert needs.reference("digits", "digits-judge").gpus == needs.pairs("digits-b", "18", "3000").gpus == 0
    on_gpu = needs.evaluate_run(**RUN), needs.reference("cifar10", "inception"), needs.pairs(COND, "18", "9")
    assert [of.gpus for of in on_gpu] == [1, 1, 1]
    assert on(gpus=0).needs.evaluate_run(**RUN).gpus == 0


def test_an_evaluation_takes_as_many_gpus_as_local_yaml_says(on: On) -> None:
    one, four = (on(**local).needs.evaluate_run(**RUN) for local in ({}, {"evaluation_gpus": 4}))
    assert (one.gpus, four.gpus, four.cores, four.memory_mb) == (1, 4, 10, 30_000)
    assert four.gpu_hours == pytest.approx(one.gpu_hours)
    assert four.stretch == pytest.approx(one.stretch / 4)
    assert on(evaluation_gpus=4).needs.evaluate_run(**DIGITS) == on().needs.evaluate_run(**DIGITS)
    assert on(evaluation_gpus=4, gpus=0).needs.evaluate_run(**RUN).gpus == 0


def test_only_what_is_known_of_the_cluster_is_asked_of_it(on: On) -> None:
    def of(stage: str, names: dict[str, str], **local: Any) -> list[Any]:
        resources = on(**local).resources(stage)
        return [resources[name](names) for name in ("slurm_partition", "slurm_account", "gpu_model")]

    assert of("distill", RUN) == [None, None, None]
    cluster = {"partition": "gpu", "cpu_partition": "cpu", "account": "me", "gpu_model": "a100"}
    assert of("distill", RUN, **cluster) == ["gpu", "me", "a100"]
    assert of("distill", DIGITS, **cluster) == ["cpu", "me", None]
    assert of("dataset", {"dataset": "digits"}, partition="all") == ["all", None, None]


def test_progress_is_looked_for_where_it_is_written() -> None:
    names = {"setting": "s", "run": "r", "seed": "0", "teacher": "t", "external": "e"}
    run, teacher = paths.run_folder("s", "r", 0), paths.teacher_folder("t")
    external = paths.external_folder("s", "e") / "metrics.json"
    assert {stage: template.format(**names) for stage, template in PROGRESS.items()} == {
        "distill": str(RunDirectory(run, "").checkpoints),
        "teacher": str(RunDirectory(teacher, "").checkpoints),
        "evaluate_run": str(run / BLOCKS),
        "evaluate_teacher": str(block_file(paths.teacher_metrics("t", "s", 18), 0).parent),
        "evaluate_external": str(block_file(external, 0).parent),
    }


def test_a_setting_that_says_nothing_takes_the_machines_gpus(config_folder: Any) -> None:
    config_folder.change("settings/digits.yaml", ("resources",), ...)
    config_folder.write("local.yaml", "{gpus: 3, card: 40 GB}\n")
    found = Needs(config_folder.load()).distill("digits", "gdd")
    assert (found.gpus, found.hours) == (2, None)  # two can share one group, nobody knows for how long
