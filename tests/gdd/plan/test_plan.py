"""The plan of a small configuration: which jobs are left, what they take, which of them wait the longest."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from gdd.cli import cli
from gdd.config.check import RULES as NAMES
from gdd.errors import UserError
from gdd.plan.costs import Cost, Costs
from gdd.plan.graph import graph
from gdd.plan.plan import Plan, make_plan
from gdd.plan.rules import RULES, Job, job_of
from gdd.targets import Targets

RUN = "runs/digits/gdd/seed0"
RATE = 180  # images a second, in digits.yaml


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def targets(config_folder: Any) -> Targets:
    return Targets(config_folder.load())


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def finished(results: Path, run: str, seconds: float, device: str = "CPU (x86_64)", **facts: Any) -> None:
    write(
        results / run / "run.json",
        {"images": 1000, "seconds": seconds, "sessions": [{"device": device}], **facts},
    )


def cost_of(plan: Plan, rule: str) -> Cost:
    return next(cost for job, cost in plan.costs.items() if job.rule == rule)


def test_every_rule_of_the_workflow_is_there() -> None:
    assert {rule.name for rule in RULES} | {"tables", "figures"} == NAMES


def test_files_lead_to_what_makes_them(targets: Targets) -> None:
    made = job_of(targets, f"results/{RUN}/snapshots")
    assert made
    assert (made.rule, made.wildcards) == ("distill", SimpleNamespace(setting="digits", run="gdd", seed="0"))
    assert f"results/{RUN}/run.json" in made.outputs
    assert made.ancient == {"results/teachers/digits/model.safetensors"}
    assert {*made.inputs} >= {*made.ancient, "results/datasets/digits/identity.json"}
    pixels = job_of(targets, "results/references/digits/pixels.npz")
    assert pixels
    assert pixels.rule == "pixel_reference"
    assert job_of(targets, "results/tables/small-choice.md").rule == "choice"  # type: ignore[union-attr]
    assert job_of(targets, "results/tables/other.md") is None
    assert job_of(targets, "data.zip") is None


def test_jobs_of_a_target(targets: Targets, results: Path) -> None:
    plan = make_plan(targets, ["small"], results)
    rules = "dataset feature_network pixel_reference reference teacher distill evaluate_run evaluate_teacher"
    counts = dict.fromkeys([*rules.split(), "table", "samples_figure", "page", "small"], 1)
    assert plan.jobs == plan.all_jobs == {**counts, "feature_network": 3, "distill": 2, "evaluate_run": 2}
    order = [job.rule for job in plan.costs]
    assert order.index("teacher") < order.index("distill") < order.index("table") < order.index("page")


def test_what_is_missing_and_what_follows_from_it(targets: Targets) -> None:
    whole = graph(targets, ["small"])
    files = {file for job in whole.jobs for file in (*job.inputs, *job.outputs)}
    assert whole.to_do(files.__contains__) == []

    def left(*gone: str) -> list[str]:
        return [job.rule for job in whole.to_do((files - set(gone)).__contains__)]

    shown = ["table", "page", "small"]
    assert sorted(left("results/tables/small.csv")) == sorted(shown)
    # Nothing that is to be made takes it, so nobody misses it.
    assert left("results/features/digits-judge.safetensors") == []
    # The table waits for a metric again, its run does not.
    assert left(f"results/{RUN}/metrics.json", "results/tables/small.csv").count("distill") == 0
    # One run misses the teacher's identity; made again, it makes every run again.
    run = (f"results/{RUN}/run.json", "results/tables/small.csv", "results/teachers/digits/model.json")
    assert left(*run).count("distill") == 2
    # As with Snakemake, an ancient input that is gone makes all again that takes it; remade, it would not.
    gone = (f"results/{RUN}/metrics.json", "results/tables/small.csv", "results/references/digits/pixels.npz")
    assert left(*gone).count("evaluate_run") == 2


def test_unknown_targets_are_refused(targets: Targets) -> None:
    for name in ("nothing", "results/nothing.txt"):
        with pytest.raises(UserError, match=f"no target '{name}'; there are: all, small, tables"):
            graph(targets, [name])


def test_hours_come_from_the_settings_until_something_was_measured(targets: Targets, results: Path) -> None:
    of_settings = cost_of(make_plan(targets, ["small"], results), "distill")
    assert of_settings == Cost(0, 19_200 / RATE / 3600, "measured elsewhere", 6 * 4 * 0.425e6)
    # Of the same setting counts, of a GPU does not where a core is asked for, and broken files do not either.
    finished(results, "runs/digits/other/seed0", 10)
    finished(results, "runs/digits/other/seed1", 1, device="NVIDIA X")
    write(results / "runs/digits/other/seed2/run.json", {})
    (results / "runs/digits/other/seed2/run.json").with_name("metrics.json").write_text("{")
    assert cost_of(make_plan(targets, ["small"], results), "distill").hours == pytest.approx(
        19_200 / 100 / 3600
    )
    # The same run from other seeds counts more: seconds of all devices, where several were used.
    finished(results, "runs/digits/gdd/seed1", 10, device_seconds=20)
    finished(results, "runs/digits/gdd/seed2", 20)
    found = cost_of(make_plan(targets, [f"results/{RUN}/run.json"], results), "distill")
    assert (found.hours, found.known) == (pytest.approx(19_200 / 50 / 3600), "measured here")


def test_judging_that_was_measured(targets: Targets, results: Path) -> None:
    for seed, seconds in ((1, 100), (2, 300)):
        metrics = {"seconds": seconds, "provenance": {"device": "CPU (arm64)"}}
        write(results / f"runs/digits/gdd/seed{seed}/metrics.json", metrics)
    found = cost_of(make_plan(targets, [f"results/{RUN}/metrics.json"], results), "evaluate_run")
    assert (found.hours, found.known) == (pytest.approx(200 / 3600), "measured here")


def test_gpus_count_in_gpu_hours(config_folder: Any, results: Path) -> None:
    rate = {"training": 1.0, "generating": 10.0, "judging": 10.0, "known": "reported", "source": "a paper"}
    resources = {"gpus": 2, "rates": {"80 GB": {**rate, "at_once": 64}}}
    config_folder.change("settings/digits.yaml", ("resources",), resources)
    plan = make_plan(Targets(config_folder.load()), [f"results/{RUN}/metrics.json"], results)
    run, judging = cost_of(plan, "distill"), cost_of(plan, "evaluate_run")
    assert (run.gpus, run.hours, run.known) == (2, pytest.approx(19_200 / 2 / 3600), "reported")
    assert run.disk is None
    # Others report their training; what judging takes is a guess.
    assert (judging.gpus, judging.known) == (1, "estimated")
    assert plan.gpu_hours() == pytest.approx(2 * run.hours + (judging.hours or 0))  # type: ignore[operator]


def test_the_longest_chain(targets: Targets, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = {"dataset": 1.0, "teacher": 3.0, "feature_network": 2.5, "distill": 2.0, "evaluate_run": 4.0}
    monkeypatch.setattr(Costs, "of", lambda self, job: Cost(hours=hours.get(job.rule, 0.0)))
    plan = make_plan(targets, ["small"], results)
    assert sum(step.hours for step in plan.chain) == 10
    steps = [step.job.split()[0] for step in plan.chain if step.hours]
    assert steps == ["dataset", "teacher", "distill", "evaluate_run"]


@pytest.fixture
def called(config_folder: Any, results: Path) -> Any:
    def call(*arguments: str) -> Any:
        folders = ["--config", str(config_folder.path), "--results", str(results)]
        return CliRunner().invoke(cli, ["plan", *arguments, *folders], catch_exceptions=False)

    return call


def test_the_command_prints_tables_or_json(called: Any) -> None:
    text = called("small").output
    assert "small: 16 of 16 jobs are to be done." in text
    for part in (
        "teacher",
        "digits",
        "CPU",
        "measured elsewhere",
        "GPU-hours",
        "longest chain",
        "distill digits gdd",
    ):
        assert part in text
    plan = json.loads(called("--json").output)
    assert plan["targets"] == ["all"]
    assert plan["jobs"]["distill"] == 2
    assert plan["gpu_hours"] == 0
    assert {run["run"] for run in plan["runs"]} == {"gdd", "gdd-i.lr.discriminator-0.0003"}
    assert plan["longest_chain"]["hours"] > 0


def test_the_command_says_when_all_is_there(called: Any, targets: Targets, results: Path) -> None:
    job: Job
    for job in graph(targets, ["small"]).jobs:
        for output in job.outputs:
            write(results.parent / output, {})
    assert "small: everything is there (16 jobs)." in called("small").output


def test_what_a_jobs_time_would_never_be_enough_for_is_told(
    called: Any, config_folder: Any, results: Path
) -> None:
    assert "cannot end" not in called("small").output
    config_folder.write("local.yaml", "longest_job: 0.0001\n")
    plan = make_plan(Targets(config_folder.load()), ["small"], results)
    assert {name.split()[0] for name in plan.endless()} == {"evaluate_run", "evaluate_teacher"}
    told = " ".join(called("small").output.split())
    name, hours = next(iter(plan.endless().items()))
    assert (
        f"{name} cannot end on a cluster: it saves nothing for about {hours:.3g} hours, but a job lasts 0.0001"
        in told
    )
    assert json.loads(called("small", "--json").output)["endless"].keys() == plan.endless().keys()
