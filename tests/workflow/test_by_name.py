"""Stages by name: the rules' shell lines are plain, and what they were planned for is checked."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

PAPER_SETTINGS = ("cifar10-uncond", "cifar10-cond", "afhqv2", "ffhq", "imagenet")


def test_every_line_of_the_whole_plan_is_short_and_plain(project: Any) -> None:
    found = project.lines("all", "external", "rate-search")  # of which no data is here
    assert len(found) > 80
    for run in itertools.product(PAPER_SETTINGS, ("gdd", "gdd-i")):
        assert any(f" distill {' '.join(run)} --seed 0 " in line for line in found)
    for line in found:
        assert re.fullmatch(r"[A-Za-z0-9_./+ -]+", line), line  # no JSON, no quotes
        assert len(line) < 250
        assert line.count("results/") == 1, line  # the log alone: a stage finds its files


def test_what_is_edited_while_a_job_waits_counts_from_the_next_start_on(made: Any) -> None:
    runs = [f"results/runs/digits/{run}/seed7/run.json" for run in ("gdd", "gdd-i")]
    (planned,) = made.lines(runs[0])
    process = subprocess.Popen(
        made.command("--cores", "1", *runs),
        env=made.environment,
        cwd=made.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not any((made.folder / run).parent.joinpath("state/log.jsonl").exists() for run in runs):
        assert process.poll() is None
        time.sleep(0.01)
    # One trains, the other one waits.
    made.edit("settings/digits.yaml", lambda data: data["recipe"].update(images=320))
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert [json.loads((made.folder / run).read_text())["images"] for run in runs] == [256, 256]
    # Typed by hand, a stage goes by the file as it is.
    refused = made.shell(planned)
    assert refused.returncode == 2
    assert re.fullmatch(
        r"gdd: The configuration of the run digits/gdd has changed since this job was planned \(its hash was \w{12} "
        r"and is \w{12}\); start the workflow again, which plans what to make now\.\n",
        refused.stderr,
    )
    assert made.planned(*runs) == {f"distill: {run}" for run in runs}
    made.snakemake("--cores", "1", *runs)
    assert [json.loads((made.folder / run).read_text())["images"] for run in runs] == [320, 320]


def test_a_target_that_a_shell_would_run_is_refused(project: Any) -> None:
    def rename(data: dict[str, Any]) -> None:
        data["targets"]["$(touch pwned)demo"] = data["targets"].pop("demo")

    project.edit("config.yaml", rename)
    printed = project.snakemake("--cores", "1", "$(touch pwned)demo", status=1)
    assert "targets.$(touch pwned)demo' is '$(touch pwned)demo': a name has to be letters, digits," in printed
    assert not list(project.folder.rglob("pwned"))


def test_an_unknown_target_has_a_suggestion(project: Any) -> None:
    printed = project.snakemake("--cores", "1", "demo", "demo-objectivs", status=1)
    last = printed.splitlines()[-1]
    assert last.startswith(
        "gdd: There is no target 'demo-objectivs'; did you mean 'demo-objectives'? there are: "
    )
    assert {"tables,", "paper,"} < set(last.split())
    assert "Exception" not in printed
    assert "Traceback" not in printed


def test_a_folder_of_the_users_own_with_spaces_in_its_name(project: Any, tmp_path: Path) -> None:
    mine = tmp_path / "my own"
    (mine / "ablations").mkdir(parents=True)
    (project.folder / "config/ablations/demo-seeds.yaml").rename(mine / "ablations/of-mine.yaml")
    for extra in (f"'{mine}'", f'["{mine}"]'):
        assert "page of-mine" in project.snakemake("-n", "-p", "of-mine", "--config", f"extra={extra}")
    done = project.shell(f"{sys.executable} -m gdd --extra '{mine}' plan of-mine")
    assert (done.returncode, done.stdout[:8]) == (0, "of-mine:"), done.stderr


def test_the_plan_is_snakemakes_own(demo: Any) -> None:
    def planned(*targets: str, status: int = 0) -> Any:
        command = f"{demo.environment.get('PYTHON', 'python')} -m gdd plan {' '.join(targets)}"
        done = demo.shell(command)
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout) if "--json" in targets else done.stdout + done.stderr

    everything = planned("--json", "demo")
    assert everything["jobs"] == {}
    assert everything["done"]["distill"] == 3
    assert planned("demo").startswith("demo: everything is there (24 jobs).")

    plan = planned("--json", "demo-seeds", "paper")
    counts = re.findall(r"^(\S+) +(\d+)$", demo.snakemake("--dry-run", "demo-seeds", "paper"), re.MULTILINE)
    assert plan["jobs"] == {rule: int(count) for rule, count in counts if rule != "total"}
    chain = [step["job"].split()[0] for step in plan["longest_chain"]]
    assert chain[-2:] == ["table", "page"]
    assert plan["gpu_hours"] > 0
    # What runs here took counts more than what the setting says.
    assert {run["known"] for run in plan["runs"] if run["setting"] == "digits"} == {"measured here"}
    text = planned("demo-seeds", "paper")
    assert "cannot end on a cluster" not in text
    assert re.search(r"^longest chain +[\d.]+ h,", text, re.MULTILINE)

    assert "There is no target 'nowhere'; there are: demo, all," in planned("nowhere", status=2)
