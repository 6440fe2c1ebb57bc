"""Names, lines on the terminal, logs, reports: what a user of the cluster meets."""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Callable

import pytest
from daemons import wait_for
from slurm_cluster import SlurmCluster
from toy_workflow import Toy

pytestmark = pytest.mark.slurm

RUN = {"options": "--steps 500"}


def test_which_task_is_which_run(toy: Callable[..., Toy], cluster: SlurmCluster) -> None:
    waiting = RUN | {"slurm_extra": "--begin=now+1hour"}
    flow = toy(a=RUN, b=RUN, c=waiting, d=waiting)
    process = flow.start("--submitit-name-prefix", "mine ")
    flow.wait_for_steps(3, "a", "b")
    wait_for(
        "names of their own",
        lambda: ["mine train a"] in names(cluster) and ["mine train b"] in names(cluster),
    )
    assert names(cluster).count(["mine train"]) == 2
    comments = [" ".join(words) for words in cluster.queue("%k")]
    assert any(re.match(r"train: [cd], [cd] \(snakemake ", words) for words in comments)
    flow.kill()
    assert process.poll() is not None


def names(cluster: SlurmCluster) -> list[list[str]]:
    return [[" ".join(words)] for words in cluster.queue("%j")]


def test_the_terminal_and_the_logs(toy: Callable[..., Toy]) -> None:
    """A line each when a job is submitted, starts and ends; a failure is at most twenty lines."""
    quick = {"options": "--pause 0.2"}
    flow = toy(a=quick, b=quick | {"options": "--pause 0.2 --fail-at 7"})
    told = flow.run(status=1)
    for words in ("submitted as SLURM job", "started on node", "done after"):
        assert len(re.findall(rf"^\S+ train a: {words}", told, re.MULTILINE)) == 1
    error = re.split(r"^\S+ Error: ", told, flags=re.MULTILINE)[1]
    lines = re.split(
        r"^(?:\[|\S+ train |Exiting|Shutting|Select|Execute|Complete)", error, flags=re.MULTILINE
    )[0]
    assert len(lines.splitlines()) <= 20
    assert "the toy was told to fail here" in lines
    logs = [file.name for file in (flow.folder / ".snakemake" / "submitit" / "train").glob("*_log.out")]
    assert len(logs) == 1  # of the one that failed


def test_the_jobs_of_another_users_name(toy: Callable[..., Toy]) -> None:
    """Whose jobs they are is SLURM's to say, not the environment's: none is given up as unknown."""
    flow = toy(a={"options": "--steps 90"})
    flow.environment |= {"LOGNAME": "nobody", "USER": "nobody"}
    flow.run()
    assert len(flow.check("a")) == 1


def test_a_retry_goes_to_another_node(toy: Callable[..., Toy]) -> None:
    command = "echo $SLURMD_NODENAME >> nodes; [ $(wc -l < nodes) = 3 ] && cp nodes results/a.json"
    flow = toy(a={"command": command})
    flow.run("--retries", "2")
    assert len(set((flow.folder / "nodes").read_text().split())) == 3


def test_the_report_of_what_was_used(limited_toy: Callable[..., Toy], limited: SlurmCluster) -> None:
    """By a named cluster too, with what its accounting knows."""
    run = {"options": "--pause 0.3 --waste-mb 5 --steps 20", "slurm_cluster": "test", "mem_mb": 600}
    killed = {"command": "sleep 6; scancel --signal=KILL --full $SLURM_JOB_ID; sleep 60"}
    flow = limited_toy(a=run, b=run, failed={"command": "sleep 6; exit 3"}, killed=killed)
    told = flow.run("--submitit-efficiency-report", "--submitit-efficiency-report-path", "report", status=1)
    assert "rule " in told
    (file,) = (flow.folder / "report").glob("efficiency_report_*.csv")
    rows = {row["name"]: row for row in csv.DictReader(file.open())}
    assert set(rows) == {"train a", "train b", "train failed", "train killed"}
    for name in ("train a", "train b"):
        assert float(rows[name]["used_mem_mb"]) > 100
        assert rows[name]["asked_mem_mb"] == "600"
        assert rows[name]["state"] == "COMPLETED"
    for row in rows.values():  # of a killed one only SLURM's accounting can say it
        assert 0.05 < float(row["used_minutes"]) < 2
    flow.check("a")


def test_partitions_from_a_file_of_limits(limited_toy: Callable[..., Toy]) -> None:
    where = "echo $SLURM_JOB_PARTITION > results/{}.json"
    flow = limited_toy(
        brief={"command": where.format("brief"), "runtime": 4},
        long={"command": where.format("long"), "runtime": 60},
        named={"command": where.format("named"), "runtime": 4, "slurm_partition": "urgent"},
    )
    limits = flow.folder / "limits.yaml"
    limits.write_text('partitions: {short: {max_runtime: "00:05:00"}, gpu: {max_runtime: 1-00:00:00}}')
    flow.run("--submitit-partition-config", str(limits))
    chosen = {name: (flow.folder / "results" / f"{name}.json").read_text().strip() for name in flow.runs}
    assert chosen == {"brief": "short", "long": "gpu", "named": "urgent"}


def test_the_account_where_slurm_asks_for_one(limited_toy: Callable[..., Toy]) -> None:
    """As on clusters without default accounts: sbatch wants one, and this user has just one."""
    command = "scontrol show job $SLURM_JOB_ID > results/{}.json"
    flow = limited_toy(**{name: {"command": command.format(name)} for name in "ab"})
    folder = flow.folder / "bin"
    folder.mkdir()
    words = "sbatch: error: Batch job submission failed: Invalid account or account/partition combination"
    asks = f'grep -q -- --account "${{@: -1}}" || {{ echo "{words}" >&2; echo x >> {folder}/asked; exit 1; }}'
    (folder / "sbatch").write_text(f'#!/bin/bash\n{asks}\nexec {shutil.which("sbatch")} "$@"\n')
    (folder / "sbatch").chmod(0o755)
    flow.environment["PATH"] = f"{folder}{os.pathsep}{flow.environment['PATH']}"
    flow.run("--submitit-array-size", "1")
    for name in "ab":
        assert "Account=lab" in (flow.folder / "results" / f"{name}.json").read_text()
    assert (folder / "asked").read_text() == "x\n"  # only once
