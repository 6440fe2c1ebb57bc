"""A plan as tables in a terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from gdd.plan.costs import UNKNOWN, Cost
from gdd.plan.plan import Plan

SPACE = 15 * " "
WIDTH = 150  # characters where no terminal limits them


def print_plan(plan: Plan) -> None:
    """Print the plan."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    console.print(_shown(plan))


def _shown(plan: Plan) -> Group:
    left, done = sum(plan.jobs.values()), sum(plan.all_jobs.values())
    of = " and ".join(plan.targets)
    if not left:
        return Group(Text(f"{of}: everything is there ({done} jobs)."))
    parts: list[Text | Table] = [
        Text(f"{of}: {left} of {done} jobs are to be done."),
        Text(""),
        _stages(plan),
        Text(""),
    ]
    if "distill" in plan.jobs:
        parts += [_runs(plan), Text("")]
    return Group(*parts, *map(Text, _sums(plan)))


def _stages(plan: Plan) -> Table:
    table = Table("job", box=None, pad_edge=False)
    for name in ("to do", "done", "GPUs each", "hours each", "GPU-hours", "GB"):
        table.add_column(name, justify="right")
    table.add_column("known from")
    for rule, costs in plan.by_rule().items():
        hours = [cost.hours for cost in costs]
        gpus = sorted({cost.gpus for cost in costs})
        table.add_row(
            rule,
            str(len(costs)),
            str(plan.all_jobs[rule] - len(costs) or ""),
            _span(gpus) if gpus[-1] else "",
            _hours(hours),
            _sum(cost.gpu_hours for cost in costs) if gpus[-1] else "",
            _sum((cost.disk for cost in costs), 1e9),
            ", ".join(sorted({cost.known for cost in costs if cost.known})),
        )
    return table


def _runs(plan: Plan) -> Table:
    table = Table("setting", "run", box=None, pad_edge=False)
    for name in ("runs", "GPUs", "hours each", "GPU-hours"):
        table.add_column(name, justify="right")
    table.add_column("known from")
    found: dict[tuple[str, str], list[Cost]] = defaultdict(list)
    for job, cost in plan.costs.items():
        if job.rule == "distill":
            found[job.wildcards.setting, job.wildcards.run].append(cost)
    for (setting, run), costs in found.items():
        gpus = costs[0].gpus
        sums = _sum(cost.gpu_hours for cost in costs) if gpus else ""
        hours = _hours([cost.hours for cost in costs])
        table.add_row(setting, run, str(len(costs)), str(gpus or "CPU"), hours, sums, costs[0].known)
    return table


def _sums(plan: Plan) -> list[str]:
    size, without = plan.disk()
    unknown = [job.rule for job, cost in plan.costs.items() if cost.hours is None]
    lines = [
        f"GPU-hours      {plan.gpu_hours():,.4g}",
        f"CPU-hours      {plan.cpu_hours():,.2g} (jobs without a GPU)",
    ]
    if unknown:
        lines.append(f"{SPACE}and {len(unknown)} jobs nobody knows of: {', '.join(dict.fromkeys(unknown))}")
    rest = f", and {without} files whose size nobody says" if without else ""
    lines.append(f"disk           {size / 1e9:,.3g} GB that stay{rest}")
    if plan.checkpoints is not None:
        lines.append(
            f"{SPACE}{plan.checkpoints / 1e9:,.2g} GB more for each run while it is trained, at most"
        )
    steps = [step for step in plan.chain if step.hours > 0]
    hours = sum(step.hours for step in steps)
    lines.append(f"longest chain  {hours:,.3g} hours, downloads not counted: ")
    lines += [f"{SPACE}{step.hours:8.3g}  {step.job}" for step in steps if step.hours >= hours / 1000]
    for job, hours in plan.endless().items():
        lines.append(
            f"{job} cannot end on a cluster: it saves nothing for about {hours:,.3g} hours, but a job lasts "
            f"{plan.longest_job:g} at most; raise 'longest_job' in config/local.yaml, or leave out the row "
            "that wants it."
        )
    lines.append("Whether something that is there has to be made again, `snakemake -n` tells.")
    return lines


def _span(values: Sequence[float], digits: str = "g") -> str:
    low, high = min(values), max(values)
    return (
        f"{low:{digits}}" if f"{low:{digits}}" == f"{high:{digits}}" else f"{low:{digits}} to {high:{digits}}"
    )


def _hours(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return UNKNOWN
    text = _span(known, ".2g") if max(known) > 0 else ""
    return text if len(known) == len(values) else f"{text} or unknown".strip()


def _sum(values: Iterable[float | None], unit: float = 1.0) -> str:
    values = list(values)
    known = [value for value in values if value is not None]
    total = sum(known) / unit
    text = f"{total:,.3g}" if total >= 0.0005 else ""
    return text if len(known) == len(values) else f"{text} + ?".strip()
