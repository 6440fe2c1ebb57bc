"""What jobs need of a machine, and that it is asked for in the rules' words."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gdd.config.load import Config, load_config
from gdd.errors import UserError
from gdd.experiments import Experiments
from gdd.needs import run_need
from gdd.targets import Targets
from gdd.training.layout import lay_out, most_processes


@pytest.fixture(scope="module")
def experiments() -> Experiments:
    return Experiments(load_config("config"))


def with_local(experiments: Experiments, **facts: Any) -> Config:
    """Return the configuration on a machine of which local.yaml says this."""
    config = experiments.config
    return replace(config, local=config.local.model_copy(update=facts))


def need(experiments: Experiments, setting: str, method: str = "gdd", **facts: Any) -> Any:
    config = with_local(experiments, **facts)
    return run_need(config, config.settings[setting], experiments.find(setting, method))


def test_settings_of_the_papers_take_the_gpus_of_the_papers_code(experiments: Experiments) -> None:
    need_of = {name: need(experiments, name) for name in experiments.config.settings}
    assert {name: of.gpus for name, of in need_of.items()} == {
        **dict.fromkeys(("cifar10-uncond", "cifar10-cond", "ffhq", "afhqv2"), 4),
        **{"imagenet": 8, "digits": 0, "digits-search": 0},
    }
    assert all(of.nodes == 1 for of in need_of.values())
    assert (need_of["digits"].cores, need_of["digits"].memory_mb) == (1, 4000)
    hours = 5_000_000 / (4 * 29) / 3600
    assert need_of["cifar10-uncond"].hours == pytest.approx(hours)
    assert need(experiments, "cifar10-uncond", gpus=2).hours == pytest.approx(2 * hours)


def test_a_rate_says_what_it_is_known_from(experiments: Experiments) -> None:
    for setting in experiments.config.settings.values():
        assert setting.resources.rates
        for name, rate in setting.resources.rates.items():
            assert rate.source
            assert (rate.known == "measured") == (name == "cpu"), "nothing was measured on a GPU"


def test_the_machine_decides_how_many_but_not_for_the_digits(experiments: Experiments) -> None:
    assert need(experiments, "cifar10-uncond", gpus=1).gpus == 1
    assert need(experiments, "cifar10-uncond", gpus=0).gpus == 0
    assert need(experiments, "cifar10-uncond", gpus=0).hours is None
    assert need(experiments, "digits", gpus=8) == need(experiments, "digits")
    spread = need(experiments, "cifar10-uncond", gpus=8, nodes=2)
    assert (spread.gpus, spread.nodes, spread.memory_mb) == (8, 2, 32_000)
    # Of six, four share the four groups; an instance objective cannot part a group either.
    assert need(experiments, "cifar10-uncond", gpus=6).gpus == 4
    assert need(experiments, "cifar10-uncond", "cd", gpus=8).gpus == 4


def test_a_card_too_small_for_a_group_takes_more_gpus(experiments: Experiments) -> None:
    small = need(experiments, "imagenet", card="24 GB")
    rate = experiments.config.settings["imagenet"].resources.rates["24 GB"]
    assert lay_out(512, 64, small.gpus).piece <= rate.at_once < 64
    assert need(experiments, "imagenet", card="24 GB", gpus=2).gpus == 2


@pytest.mark.parametrize("instance", [None, "consistency"])
def test_most_processes_are_the_most_that_are_not_refused(instance: str | None) -> None:
    heads, objective = SimpleNamespace(norm_group=6), SimpleNamespace(instance=instance)
    for groups, limit, step in itertools.product((1, 2, 4), range(1, 40), (1, 2)):
        recipe: Any = SimpleNamespace(batch=6 * groups, heads=heads, objective=objective)
        possible = []
        for count in range(step, limit + 1, step):
            try:
                layout = lay_out(recipe.batch, 6, count)
            except UserError:
                continue
            if not instance or layout.span == 1:
                possible.append(count)
        assert most_processes(recipe, limit, step) == max(possible, default=step)


RUN = SimpleNamespace(setting="cifar10-uncond", run="gdd", seed="0")
DIGITS = SimpleNamespace(setting="digits", run="gdd", seed="0")


def asked(experiments: Experiments, **facts: Any) -> Targets:
    targets = Targets(experiments)
    targets.config = with_local(experiments, **facts)
    return targets


def test_limits_of_time(experiments: Experiments) -> None:
    targets = asked(experiments)
    assert targets.training.minutes(DIGITS) == 120
    assert targets.training.minutes(RUN) == pytest.approx(60 * 1.5 * 5e6 / 116 / 3600 + 30, abs=1)
    assert asked(experiments, longest_job=2).training.minutes(RUN) == 120
    assert targets.judging.minutes(DIGITS) == 60


def test_judging_saves_what_it_did_after_every_block(experiments: Experiments) -> None:
    need = asked(experiments).judging.need(SimpleNamespace(setting="cifar10-uncond", teacher="t", steps="18"))
    assert need.hours == pytest.approx(3 * need.stretch)
    run = asked(experiments).judging.need(RUN)
    assert run.stretch < need.stretch < need.hours
    assert asked(experiments).training.need(RUN).stretch == 0
    pairs = SimpleNamespace(teacher="edm-cifar10-32x32-cond-ve", steps="18", pairs="3000")
    for nothing_before_the_end in (
        asked(experiments).solving.need(pairs),
        asked(experiments).describing.need(SimpleNamespace(dataset="cifar10", name="inception")),
    ):
        assert nothing_before_the_end.stretch == nothing_before_the_end.hours > 0


def test_judging_takes_a_gpu_where_training_does(experiments: Experiments) -> None:
    judging = asked(experiments).judging
    teacher = SimpleNamespace(setting="cifar10-uncond", teacher="t", steps="18")
    assert (judging.gpu(RUN), judging.gpu(teacher), judging.gpu(DIGITS)) == (1, 1, 0)
    assert (judging.cores(DIGITS), judging.mem_mb(DIGITS)) == (1, 2000)
    assert asked(experiments, gpus=0).judging.gpu(RUN) == 0
    describing = asked(experiments).describing
    assert describing.gpu(SimpleNamespace(dataset="cifar10", name="inception")) == 1
    assert describing.gpu(SimpleNamespace(dataset="digits", name="digits-judge")) == 0
    pairs = {"steps": "18", "pairs": "3000"}
    solving = asked(experiments).solving
    assert solving.gpu(SimpleNamespace(teacher="digits-b", **pairs)) == 0
    assert solving.gpu(SimpleNamespace(teacher="edm-cifar10-32x32-cond-ve", **pairs)) == 1


def test_only_what_is_known_of_the_cluster_is_asked_of_it(experiments: Experiments) -> None:
    def of(kind: Any, wildcards: Any) -> dict[str, Any]:
        return {name: value(wildcards) for name, value in kind.items()}

    nothing = dict.fromkeys(("slurm_partition", "slurm_account", "gpu_model"))
    assert of(asked(experiments).training.cluster, RUN) == nothing
    targets = asked(experiments, partition="gpu", cpu_partition="cpu", account="me", gpu_model="a100")
    with_gpu = {"slurm_partition": "gpu", "slurm_account": "me", "gpu_model": "a100"}
    without = {"slurm_partition": "cpu", "slurm_account": "me", "gpu_model": None}
    assert of(targets.training.cluster, RUN) == with_gpu
    assert of(targets.training.cluster, DIGITS) == of(targets.cluster, None) == without
    assert of(asked(experiments, partition="all").cluster, None)["slurm_partition"] == "all"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nodes: 2", "'nodes' is 2, so 'gpus' has to be a multiple of it"),
        ("{nodes: 2, gpus: 3}", "'nodes' is 2, so 'gpus' has to be a multiple of it"),
        ("card: 12 GB", "card"),
    ],
)
def test_mistakes_in_local(config_folder: Any, text: str, sentence: str) -> None:
    config_folder.write("local.yaml", text + "\n")
    with pytest.raises(UserError, match=sentence):
        config_folder.load()


def test_a_card_says_what_fits_and_a_core_does_not(config_folder: Any) -> None:
    rate = {"training": 1, "generating": 1, "judging": 1, "known": "estimated", "source": "here"}
    config_folder.change("settings/digits.yaml", ("resources", "rates"), {"24 GB": rate})
    with pytest.raises(UserError, match="'at_once' belongs to every card"):
        config_folder.load()


def test_resources_are_no_part_of_a_recipe(config_folder: Any) -> None:
    before = config_folder.load().find("digits", "gdd").fingerprint()
    config_folder.change("settings/digits.yaml", ("resources",), ...)
    config_folder.write("local.yaml", "{gpus: 3, card: 40 GB}\n")
    experiments = config_folder.load()
    assert experiments.find("digits", "gdd").fingerprint() == before
    # A setting that says nothing takes the machine's GPUs (two can share one group), nobody knows for how long.
    found = run_need(
        experiments.config, experiments.config.settings["digits"], experiments.find("digits", "gdd")
    )
    assert (found.gpus, found.hours) == (2, None)
