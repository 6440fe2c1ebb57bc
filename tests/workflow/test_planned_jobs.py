"""`gdd plan` counts the jobs that Snakemake counts, from nothing and with some of the results there."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gdd.config.load import load_config
from gdd.experiments import Experiments
from gdd.plan.graph import graph
from gdd.targets import Targets

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

BEGAN = 1_700_000_000  # a time stamp; each further file is a second younger


def counted(project: Any, *targets: str) -> dict[str, int]:
    """Return the jobs of Snakemake's dry run by rule."""
    told = project.snakemake("--dry-run", *targets)
    table = re.search(r"^Job stats:\n.*\n-.*\n((?:.+\n)+?)total +\d+$", told, flags=re.MULTILINE)
    return (
        {name: int(count) for name, count in re.findall(r"^(\S+) +(\d+)$", table[1], re.M)} if table else {}
    )


def planned(project: Any, *targets: str) -> dict[str, Any]:
    """Return what `gdd plan` prints for programs; it imports neither torch nor Snakemake."""
    code = (
        "import sys; from gdd.cli import cli\n"
        f"try: cli(['plan', '--json', *{targets!r}])\n"
        "finally: assert not {'torch', 'snakemake'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=project.environment,
        cwd=project.folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def make(folder: Path, jobs: list[Any]) -> None:
    """Put the outputs of these jobs there, one after the other."""
    for moment, job in enumerate(jobs):
        for output in job.outputs:
            path = folder / output
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.name in ("snapshots", "samples"):
                path.mkdir(exist_ok=True)
            else:
                path.touch()
            os.utime(path, (BEGAN + moment, BEGAN + moment))


def test_from_nothing(project: Any) -> None:
    assert planned(project, "demo")["jobs"] == counted(project, "demo")
    targets = ["all", "rate-search", "demo-seeds", "objectives", "discriminator", "tables", "figures"]
    targets.append("results/runs/ffhq/gdd/seed3/metrics.json")
    assert planned(project, *targets)["jobs"] == counted(project, *targets)


@pytest.mark.parametrize("seed", range(4))
def test_with_some_of_the_results(project: Any, seed: int) -> None:
    """Whichever jobs are done, also ones whose own inputs have gone since."""
    target = ("demo", "objectives", "paper")[seed % 3]
    jobs = graph(Targets(Experiments(load_config(project.folder / "config"))), [target]).jobs
    share = random.Random(seed).uniform(0.3, 1.0)
    done = [job for job in jobs if random.Random(f"{seed} {job.outputs}").random() < share]
    make(project.folder, done)
    assert planned(project, target)["jobs"] == counted(project, target)


def test_with_everything(project: Any) -> None:
    make(project.folder, graph(Targets(Experiments(load_config(project.folder / "config"))), ["demo"]).jobs)
    plan = planned(project, "demo")
    assert plan["jobs"] == counted(project, "demo") == {}
    assert plan["done"]["distill"] == 3
