"""Which jobs a target needs, and which of them are left to do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from types import SimpleNamespace

from gdd.errors import UserError
from gdd.plan.rules import Job, job_of
from gdd.targets import Targets


@dataclass
class Graph:
    """All jobs behind the targets, and for each those whose files it takes, with those files."""

    goals: list[Job]
    makers: dict[Job, dict[Job, set[str]]] = field(default_factory=dict)

    @property
    def jobs(self) -> list[Job]:
        """All jobs, each after those whose files it takes."""
        return list(
            TopologicalSorter({job: list(needed) for job, needed in self.makers.items()}).static_order()
        )

    def to_do(self, exists: Callable[[str], bool]) -> list[Job]:
        """Return the jobs that have to run, each after those it waits for.

        As Snakemake decides where nothing but files is missing: what is missing is made, then what was made
        from it, and what is missing for that. Whether something else has changed since (a recipe, a time
        stamp) is not looked at.
        """
        takers: dict[Job, dict[Job, set[str]]] = {job: {} for job in self.makers}
        for job, needed in self.makers.items():
            for maker, files in needed.items():
                takers[maker][job] = files
        missing = {file: not exists(file) for job in self.makers for file in (*job.inputs, *job.outputs)}
        wanted = [goal for goal in self.goals if any(missing[file] for file in goal.outputs or goal.inputs)]
        found, queue = set(wanted), deque(wanted)
        while queue:
            job = queue.popleft()
            more = [
                maker for maker, files in self.makers[job].items() if any(missing[file] for file in files)
            ]
            for taker, files in takers[job].items():
                if not all(file in taker.ancient and not missing[file] for file in files):
                    more.append(taker)
            for other in more:
                if other not in found:
                    found.add(other)
                    queue.append(other)
        return [job for job in self.jobs if job in found]


def graph(targets: Targets, names: Iterable[str]) -> Graph:
    """Return everything behind targets of the workflow, or files that it makes.

    Raises:
        UserError: there is no such target and no rule makes such a file.
    """
    found = Graph([_goal(targets, name) for name in names])
    by_file: dict[str, Job | None] = {}
    queue = deque(found.goals)
    while queue:
        job = queue.popleft()
        if job in found.makers:
            continue
        needed = found.makers.setdefault(job, {})
        for file in job.inputs:
            if file not in by_file:
                made = job_of(targets, file)
                # One object a job, whichever of its files is asked for first.
                by_file |= dict.fromkeys(made.outputs if made else [file], made)
            maker = by_file[file]
            if maker is not None:
                needed.setdefault(maker, set()).add(file)
                queue.append(maker)
    return found


def _goal(targets: Targets, name: str) -> Job:
    """Return the job of a name that can be given to Snakemake."""
    names = [*targets.pages(), *targets.ablations(), "tables", "figures"]
    if name in names:
        if name in targets.pages():
            files = [targets.page(name)]
        elif name in targets.ablations():
            files = targets.of_ablation(name)
        else:
            files = targets.all_tables() if name == "tables" else targets.all_figures()
        return Job(name, SimpleNamespace(), (), tuple(dict.fromkeys(files)))
    made = job_of(targets, name) if Path(name).parts[:1] == ("results",) else None
    if made is None:
        raise UserError(
            f"There is no target '{name}'; there are: {', '.join(names)}, and files below results/."
        )
    return made
