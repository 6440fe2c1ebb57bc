"""The plan of some targets: jobs, hours, disk, and the longest chain of jobs that wait for each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gdd.plan.costs import Cost, Costs
from gdd.plan.graph import graph
from gdd.plan.rules import Job
from gdd.targets import Targets


@dataclass(frozen=True)
class Step:
    """A job of the longest chain."""

    job: str
    hours: float


@dataclass(frozen=True)
class Plan:
    """What is left to do for `targets`, each job after those it waits for, with what it takes."""

    targets: tuple[str, ...]
    costs: dict[Job, Cost]
    all_jobs: Counter[str]  # by rule, with those that are done
    chain: tuple[Step, ...]
    checkpoints: float | None  # bytes that the largest run holds while it is trained
    longest_job: float  # hours that local.yaml allows a job

    @property
    def jobs(self) -> Counter[str]:
        """The jobs left to do by rule, in the order in which the rules come up."""
        return Counter(job.rule for job in self.costs)

    def gpu_hours(self) -> float:
        """Return the GPU-hours of all jobs of which they are known."""
        return sum(cost.gpu_hours or 0.0 for cost in self.costs.values())

    def cpu_hours(self) -> float:
        """Return the hours of all jobs without a GPU of which they are known."""
        return sum(cost.hours or 0.0 for cost in self.costs.values() if not cost.gpus)

    def endless(self) -> dict[str, float]:
        """Return the jobs that save nothing within the hours a job may last, with those they need for it."""
        stretches = {_name(job): cost.stretch for job, cost in self.costs.items()}
        return {name: hours for name, hours in stretches.items() if hours > self.longest_job}

    def by_rule(self) -> dict[str, list[Cost]]:
        """Return the costs of the jobs of each rule."""
        found: dict[str, list[Cost]] = defaultdict(list)
        for job, cost in self.costs.items():
            found[job.rule].append(cost)
        return dict(found)

    def disk(self) -> tuple[float, int]:
        """Return the bytes that stay, and the number of jobs of which nobody knows them."""
        sizes = [cost.disk for cost in self.costs.values()]
        return sum(size for size in sizes if size is not None), sizes.count(None)

    def plain(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        runs = []
        for job, cost in self.costs.items():
            if job.rule == "distill":
                hours = _rounded(cost.hours), _rounded(cost.gpu_hours)
                known = {"gpus": cost.gpus, "hours": hours[0], "gpu_hours": hours[1], "known": cost.known}
                runs.append({**vars(job.wildcards), **known})
        size, without = self.disk()
        return {
            "targets": list(self.targets),
            "jobs": dict(self.jobs),
            "done": dict(self.all_jobs - self.jobs),
            "runs": runs,
            "gpu_hours": round(self.gpu_hours(), 3),
            "cpu_hours": round(self.cpu_hours(), 3),
            "known_from": sorted({cost.known for cost in self.costs.values() if cost.known}),
            "jobs_of_unknown_hours": sum(cost.hours is None for cost in self.costs.values()),
            "disk_gb": round(size / 1e9, 3),
            "jobs_of_unknown_disk": without,
            "checkpoints_gb": None if self.checkpoints is None else round(self.checkpoints / 1e9, 3),
            "longest_chain": {
                "hours": round(sum(step.hours for step in self.chain), 3),
                "jobs": [{"job": step.job, "hours": round(step.hours, 3)} for step in self.chain],
            },
            "endless": {name: round(hours, 3) for name, hours in self.endless().items()},
        }


def make_plan(targets: Targets, names: Iterable[str], results: Path) -> Plan:
    """Return the plan of targets, or of files of the workflow.

    Raises:
        UserError: there is no such target.
    """
    names = tuple(names)
    found = graph(targets, names)
    known = Costs(targets, results)

    def exists(file: str) -> bool:
        return (results / file.removeprefix("results/")).exists()

    costs = {job: known.of(job) for job in found.to_do(exists)}
    recipes = [targets.recipe(job.wildcards) for job in costs if job.rule == "distill"]
    sizes = [size for size in map(known.checkpoints, recipes) if size is not None]
    return Plan(
        names,
        costs,
        Counter(job.rule for job in found.makers),
        _longest(costs, {job: list(found.makers[job]) for job in costs}),
        max(sizes, default=None),
        targets.config.local.longest_job,
    )


def _longest(costs: dict[Job, Cost], makers: dict[Job, list[Job]]) -> tuple[Step, ...]:
    """Return the jobs that wait for each other the longest, all others at once."""
    best: dict[Job, tuple[float, Job | None]] = {}
    for job, cost in costs.items():  # in an order in which what a job waits for comes before it
        before = [(best[maker][0], maker) for maker in makers[job] if maker in best]
        hours, last = max(before, key=lambda pair: pair[0], default=(0.0, None))
        best[job] = hours + (cost.hours or 0.0), last
    end = max(best, key=lambda job: best[job][0], default=None)
    chain: list[Step] = []
    while end is not None:
        chain.append(Step(_name(end), costs[end].hours or 0.0))
        end = best[end][1]
    return tuple(reversed(chain))


def _name(job: Job) -> str:
    return " ".join([job.rule, *vars(job.wildcards).values()])


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
