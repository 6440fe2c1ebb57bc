"""`gdd plan`: what a target takes, before anything is started. Made from Snakemake's own DAG in a dry run."""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import pandas as pd
from snakemake.api import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings, SnakemakeApi
from snakemake.settings.types import Quietness

from gdd import paths
from gdd.errors import UserError
from workflow.lib.needs import HOUR, Need, Needs
from workflow.lib.plan_text import print_plan
from workflow.lib.rules import Rules

SNAKEFILE = Path(__file__).parents[2] / "Snakefile"
MEASURED = "measured here"
REPORTS = Path(".snakemake/submitit")  # of what the jobs of a workflow used


@dataclass(frozen=True)
class Job:
    """A job of the DAG, what it needs, and the jobs it waits for."""

    rule: str
    names: tuple[tuple[str, str], ...]  # of its wildcards
    need: Need
    after: tuple[int, ...]  # positions in `Plan.jobs`

    @property
    def title(self) -> str:
        return " ".join([self.rule, *(value for _, value in self.names)])


@dataclass(frozen=True)
class Plan:
    """What is left to do, each job after those it waits for."""

    targets: tuple[str, ...]
    jobs: tuple[Job, ...]
    all_jobs: Counter[str]  # by rule, with those that are done
    checkpoints: float | None  # bytes that the largest run holds while it is trained
    longest_job: float  # hours that local.yaml allows a job

    @property
    def by_rule(self) -> dict[str, list[Need]]:
        found: dict[str, list[Need]] = defaultdict(list)
        for job in self.jobs:
            found[job.rule].append(job.need)
        return dict(found)

    @property
    def gpu_hours(self) -> float:
        return sum(job.need.gpu_hours or 0.0 for job in self.jobs)

    @property
    def cpu_hours(self) -> float:
        return sum(job.need.hours or 0.0 for job in self.jobs if not job.need.gpus)

    @property
    def disk(self) -> tuple[float, int]:
        """The bytes that stay, and the number of jobs of which nobody knows them."""
        sizes = [job.need.disk for job in self.jobs]
        return sum(size for size in sizes if size is not None), sizes.count(None)

    @cached_property
    def chain(self) -> list[Job]:
        """The jobs that wait for each other the longest, all others at once."""
        total: list[float] = []
        before: list[int | None] = []
        for job in self.jobs:
            last = max(job.after, key=lambda index: total[index], default=None)
            total.append((0.0 if last is None else total[last]) + (job.need.hours or 0.0))
            before.append(last)
        at = max(range(len(total)), key=lambda index: total[index], default=None)
        chain = []
        while at is not None:
            chain.append(self.jobs[at])
            at = before[at]
        return chain[::-1]

    @property
    def endless(self) -> dict[str, float]:
        """The jobs that save nothing within the hours a job may last, with the hours they need for it."""
        return {job.title: job.need.stretch for job in self.jobs if job.need.stretch > self.longest_job}

    def plain(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        size, without = self.disk
        runs = [
            {**dict(job.names), "gpus": job.need.gpus, "hours": job.need.hours}
            | {"gpu_hours": job.need.gpu_hours, "known": job.need.known}
            for job in self.jobs
            if job.rule == "distill"
        ]
        jobs = Counter(job.rule for job in self.jobs)
        return {
            "targets": list(self.targets),
            "jobs": dict(jobs),
            "done": dict(self.all_jobs - jobs),
            "runs": runs,
            "gpu_hours": self.gpu_hours,
            "cpu_hours": self.cpu_hours,
            "known_from": sorted({job.need.known for job in self.jobs if job.need.known}),
            "jobs_of_unknown_hours": sum(job.need.hours is None for job in self.jobs),
            "disk_gb": size / 1e9,
            "jobs_of_unknown_disk": without,
            "checkpoints_gb": None if self.checkpoints is None else self.checkpoints / 1e9,
            "longest_chain": [{"job": job.title, "hours": job.need.hours or 0.0} for job in self.chain],
            "endless": self.endless,
        }


def make_plan(rules: Rules, targets: Iterable[str], config: Mapping[str, Any]) -> Plan:
    """Return the plan of targets, or of files that the workflow makes.

    Raises:
        UserError: Snakemake has no such target, or a run cannot be trained on the GPUs it would have.
    """
    targets = tuple(targets)
    rules.refuse_unknown(targets)
    dag = _dry_run(targets, config)
    measured, to_do = Measured(rules.needs), set(dag.needrun_jobs(exclude_finished=False))
    rules.refuse_too_few_gpus(to_do)
    ordered = [job for level in dag.toposorted(to_do) for job in sorted(level, key=str)]
    position = {job: index for index, job in enumerate(ordered)}
    jobs = []
    for job in ordered:
        names = dict(job.wildcards.items())
        after = tuple(position[other] for other in dag.dependencies[job] if other in position)
        # A target makes nothing itself.
        need = Need() if job.is_norun else measured.need(job.rule.name, names)
        jobs.append(Job(job.rule.name, tuple(names.items()), need, after))
    runs = [dict(job.names) for job in jobs if job.rule == "distill"]
    teachers = {rules.experiments.find(names["setting"], names["run"]).teacher for names in runs}
    # Two stay, each with weights, their average, Adam's two moments, and about as much of the discriminator.
    sizes = [10 * size for size in map(rules.needs.snapshot_bytes, teachers) if size is not None]
    counts = Counter(job.rule.name for job in dag.jobs)
    return Plan(targets, tuple(jobs), counts, max(sizes, default=None), rules.config.local.longest_job)


def _dry_run(targets: tuple[str, ...], config: Mapping[str, Any]) -> Any:
    said = io.StringIO()
    with (
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(said),
        SnakemakeApi(OutputSettings(quiet=frozenset({Quietness.ALL}))) as api,
    ):
        workflow = api.workflow(ResourceSettings(cores=1), ConfigSettings(config=config), snakefile=SNAKEFILE)
        try:
            workflow.dag(DAGSettings(targets=frozenset(targets))).execute_workflow("dryrun")
        except Exception as error:  # each of Snakemake's own kinds, which it would print
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"Snakemake cannot plan {', '.join(targets)}: {lines[0]}") from None
        # Public is only what prints the DAG (seen in Snakemake 9.10 to 9.27).
        return workflow._workflow.dag


class Measured:
    """Estimates, with what finished runs in results/ took in their place."""

    def __init__(self, needs: Needs) -> None:
        self.needs = needs

    def need(self, rule: str, names: dict[str, str]) -> Need:
        need = self.needs.of(rule, names)
        setting, on_gpu = names.get("setting", ""), need.gpus > 0
        if rule == "distill":
            for key in ((setting, names["run"]), setting):
                if rates := self._training_rates.get((key, on_gpu)):
                    images = self.needs.experiments.find(setting, names["run"]).images
                    hours = images / (statistics.mean(rates) * max(need.gpus, 1)) / HOUR
                    return replace(need, hours=hours, known=MEASURED)
        elif rule == "evaluate_run" and (seconds := self._evaluating.get((setting, on_gpu))):
            return replace(need, hours=statistics.mean(seconds) / HOUR, known=MEASURED)
        elif minutes := self._on_a_cluster.get(" ".join(dict.fromkeys([rule, *names.values()]))):
            return replace(need, hours=statistics.mean(minutes) / 60, known=MEASURED)
        return need

    @cached_property
    def _training_rates(self) -> dict[tuple[Any, bool], list[float]]:
        """Images a second and device of finished runs, by (setting, run) and by setting, on a GPU or not."""
        rates: dict[tuple[Any, bool], list[float]] = defaultdict(list)
        for path, facts in _finished("run.json"):
            with contextlib.suppress(KeyError, IndexError, TypeError, AttributeError):
                seconds = facts.get("device_seconds") or facts["seconds"]
                on_gpu = not str(facts["sessions"][-1]["device"]).startswith("CPU")
                setting, run = path.parts[-4:-2]
                for key in ((setting, run), setting) if seconds > 0 else ():
                    rates[key, on_gpu].append(facts["images"] / seconds)
        return rates

    @cached_property
    def _evaluating(self) -> dict[tuple[str, bool], list[float]]:
        """Seconds that the evaluation of finished runs took, by setting, on a GPU or not."""
        found: dict[tuple[str, bool], list[float]] = defaultdict(list)
        for path, facts in _finished("metrics.json"):
            with contextlib.suppress(KeyError, TypeError):
                on_gpu = not str(facts["provenance"]["device"]).startswith("CPU")
                found[path.parts[-4], on_gpu].append(facts["seconds"])
        return found

    @cached_property
    def _on_a_cluster(self) -> dict[str, list[float]]:
        """Minutes that jobs took, by rule and wildcards, as the executor reported of each."""
        found: dict[str, list[float]] = defaultdict(list)
        for path in sorted(REPORTS.glob("efficiency_report_*.csv")):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                table = pd.read_csv(path)
                done = table[(table["state"] == "COMPLETED") & (table["used_minutes"] > 0)]
                for name, minutes in zip(done["name"], done["used_minutes"], strict=True):
                    found[name].append(float(minutes))
        return found


def _finished(name: str) -> Iterable[tuple[Path, dict[str, Any]]]:
    for path in sorted(paths.RESULTS.glob(f"runs/*/*/seed*/{name}")):
        with contextlib.suppress(OSError, ValueError):
            yield path, json.loads(path.read_text(encoding="utf-8"))


@click.command()
@click.argument("targets", nargs=-1)
@click.option("--json", "as_json", is_flag=True)
@click.option("--folder", required=True)
@click.option("--extra", multiple=True)
def main(targets: tuple[str, ...], as_json: bool, folder: str, extra: tuple[str, ...]) -> None:
    """Print the plan; `gdd plan` starts this, because gdd itself imports no Snakemake."""
    try:
        config = {"folder": folder, "extra": extra}
        plan = make_plan(Rules(folder, *extra), targets or ("all",), config)
    except UserError as error:
        print(f"gdd: {error}", file=sys.stderr)
        sys.exit(2)
    if as_json:
        click.echo(json.dumps(plan.plain(), indent=2))
    else:
        print_plan(plan)


if __name__ == "__main__":
    main()
