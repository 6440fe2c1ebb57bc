"""A plan as tables in a terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from workflow.lib.needs import HOUR, Need
from workflow.lib.rates import UNKNOWN

if TYPE_CHECKING:
    from workflow.lib.plan import Plan

SPACE = 15 * " "
WIDTH = 150  # characters where no terminal limits them


def print_plan(plan: Plan) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    left, all_of_them, names = len(plan.jobs), sum(plan.all_jobs.values()), " and ".join(plan.targets)
    if not left:
        console.print(f"{names}: everything is there ({all_of_them} jobs).", markup=False)
        return
    console.print(f"{names}: {left} of {all_of_them} jobs are to be done.\n", markup=False)
    console.print(_stages(plan), "")
    if "distill" in plan.by_rule:
        console.print(_runs(plan), "")
    for line in _sums(plan):
        console.print(line, markup=False)


def _table(*lead: str, numbers: Sequence[str]) -> Table:
    table = Table(*lead, box=None, pad_edge=False)
    for name in numbers:
        table.add_column(name, justify="right")
    table.add_column("known from")
    return table


def _stages(plan: Plan) -> Table:
    table = _table("job", numbers=("to do", "done", "GPUs each", "time each", "GPU-hours", "GB"))
    for rule, needs in plan.by_rule.items():
        gpus = sorted({need.gpus for need in needs})
        table.add_row(
            rule,
            str(len(needs)),
            str(plan.all_jobs[rule] - len(needs) or ""),
            _span(gpus, str) if gpus[-1] else "",
            _hours(needs),
            _sum(need.gpu_hours for need in needs) if gpus[-1] else "",
            _sum((need.disk for need in needs), 1e9),
            ", ".join(sorted({need.known for need in needs if need.known})),
        )
    return table


def _runs(plan: Plan) -> Table:
    table = _table("setting", "run", numbers=("runs", "GPUs", "time each", "GPU-hours"))
    found: dict[tuple[str, str], list[Need]] = defaultdict(list)
    for job in plan.jobs:
        if job.rule == "distill":
            names = dict(job.names)
            found[names["setting"], names["run"]].append(job.need)
    for (setting, run), needs in found.items():
        gpus = needs[0].gpus
        total = _sum(need.gpu_hours for need in needs) if gpus else ""
        table.add_row(setting, run, str(len(needs)), str(gpus or "CPU"), _hours(needs), total, needs[0].known)
    return table


def _sums(plan: Plan) -> list[str]:
    size, without = plan.disk
    unknown = dict.fromkeys(job.rule for job in plan.jobs if job.need.hours is None)
    lines = [
        f"GPU-hours      {plan.gpu_hours:,.4g}",
        f"CPU-hours      {plan.cpu_hours:,.2g} (jobs without a GPU)",
    ]
    if unknown:
        lines.append(f"{SPACE}not counted, because nobody knows: {', '.join(unknown)}")
    rest = f", and {without} files whose size nobody says" if without else ""
    lines.append(f"disk           {size / 1e9:,.3g} GB that stay{rest}")
    if plan.checkpoints is not None:
        lines.append(
            f"{SPACE}{plan.checkpoints / 1e9:,.2g} GB more for each run while it is trained, at most"
        )
    total = sum(job.need.hours or 0.0 for job in plan.chain)
    lines.append(f"longest chain  {duration(total)}, downloads not counted:")
    for job in plan.chain:
        if (job.need.hours or 0.0) >= max(total / 1000, 1e-9):
            lines.append(f"{SPACE}{duration(job.need.hours):>8}  {job.title}")
    for title, hours in plan.endless.items():
        lines.append(
            f"{title} cannot end on a cluster: it saves nothing for {duration(hours)}, but a job lasts "
            f"at most {duration(plan.longest_job)}; raise 'longest_job' in config/local.yaml, or leave out "
            "the row that wants it."
        )
    return lines


def duration(hours: float | None) -> str:
    """Return a time in seconds, minutes or hours, by its size."""
    hours = hours or 0.0
    seconds = round(HOUR * hours)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3570:
        return f"{seconds / 60:.0f} min"
    return f"{hours:.3g} h" if hours < 100 else f"{hours:,.0f} h"


def _span(values: Sequence[float], write: Callable[[float], str]) -> str:
    low, high = write(min(values)), write(max(values))
    return low if low == high else f"{low} to {high}"


def _hours(needs: Sequence[Need]) -> str:
    known = [need.hours for need in needs if need.hours is not None]
    if not known:
        return UNKNOWN
    text = _span(known, duration) if max(known) > 0 else ""
    return text if len(known) == len(needs) else f"{text} or unknown".strip()


def _sum(values: Iterable[float | None], unit: float = 1.0) -> str:
    values = list(values)
    known = [value for value in values if value is not None]
    total = sum(known) / unit
    text = f"{total:,.3g}" if total >= 0.0005 else ""
    return text if len(known) == len(values) else f"{text} + ?".strip()
