"""Snakemake that is interrupted or killed: jobs are cancelled in the first case and found again in the second."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from daemons import wait_for
from slurm_cluster import SlurmCluster
from toy_workflow import Toy

pytestmark = pytest.mark.slurm

LONG = {"options": "--steps 500"}


@pytest.mark.parametrize("reached", ["group", "process"])
def test_ctrl_c(reached: str, toy: Callable[..., Toy], cluster: SlurmCluster) -> None:
    flow = toy(a=LONG, b=LONG, waiting=LONG | {"slurm_extra": "--begin=now+1hour"})
    process = flow.start()
    flow.wait_for_steps(7, "a", "b")
    assert len(cluster.queue()) == 3
    (os.killpg if reached == "group" else os.kill)(process.pid, signal.SIGINT)
    assert process.wait(60) != 0
    wait_for("an empty queue", lambda: not cluster.queue(), 30)

    flow.runs["waiting"] = LONG
    flow.write_runs()
    flow.hurry()
    flow.run()
    for name in flow.runs:
        assert len(flow.check(name, killed=1)) == 1 + (name != "waiting")
    flow.check_nothing_is_left()


def test_killed_while_jobs_run(toy: Callable[..., Toy], cluster: SlurmCluster) -> None:
    flow = toy(a=LONG, b=LONG, c=LONG | {"slurm_extra": "--begin=now+20"})
    flow.start()
    flow.wait_for_steps(7, "a", "b")
    before = {job for job, _ in cluster.queue()}
    flow.kill()
    flow.wait_for_steps(12, "a", "b")  # they do not care

    flow.unlock()
    process = flow.start()
    wait_for("being found", lambda: flow.said.count("ttached to") == 3 or process.poll() is not None)
    assert {job for job, _ in cluster.queue()} == before
    flow.hurry()
    flow.finish(process)
    for name in flow.runs:
        assert len(flow.check(name)) == 1
    flow.check_nothing_is_left()


def test_killed_and_jobs_ended(toy: Callable[..., Toy], cluster: SlurmCluster) -> None:
    flow = toy(a=LONG, b=LONG)
    flow.start()
    flow.wait_for_steps(7)
    flow.kill()
    flow.hurry()
    wait_for("an empty queue", lambda: not cluster.queue(), 60)

    flow.unlock()
    flow.run()
    for name in flow.runs:
        assert len(flow.check(name)) == 1
    flow.check_nothing_is_left()

    flow.runs["a"] = {"options": "--steps 300"}
    flow.write_runs()
    assert "Params have changed" in flow.run("--dry-run").rsplit("Building DAG", 1)[-1]


@pytest.mark.thorough
def test_killed_and_a_job_failed(toy: Callable[..., Toy], cluster: SlurmCluster) -> None:
    """A job that failed while nobody looked is tried again, not believed to be running."""
    flow = toy(a={"options": "--fail-at 12"}, b=LONG)
    flow.start()
    flow.wait_for_steps(7)
    flow.kill()
    wait_for("the end of a", lambda: len(cluster.queue()) == 1, 60)

    flow.runs["a"] = {"options": "--steps 30"}
    flow.write_runs()
    flow.hurry()
    flow.unlock()
    flow.run()
    assert len(flow.check("a", killed=1)) == 2
    assert len(flow.check("b")) == 1
    flow.check_nothing_is_left()


@pytest.mark.thorough
def test_a_changed_rule_is_not_taken_for_the_old_one(toy: Callable[..., Toy], cluster: SlurmCluster) -> None:
    flow = toy(a=LONG, b=LONG)
    flow.start()
    flow.wait_for_steps(7)
    old = {name: flow.job(name) for name in flow.runs}
    flow.kill()

    flow.runs["a"] = {"options": "--steps 300"}
    flow.write_runs()
    flow.unlock()
    process = flow.start()
    wait_for("the new a", lambda: len(flow.sittings("a")) == 2 or process.poll() is not None)
    flow.hurry()
    flow.finish(process)
    first, second = flow.check("a", killed=1)
    assert first.job == old["a"] != second.job
    assert [sitting.job for sitting in flow.check("b")] == [old["b"]]
    flow.check_nothing_is_left()


def test_two_workflows_in_one_folder_killed(toy: Callable[..., Toy], cluster: SlurmCluster) -> None:
    """Each finds its own jobs again, and neither forgets the other's."""
    flow = toy(a=LONG, b=LONG, c=LONG, d=LONG)
    pairs = (["results/a.json", "results/b.json"], ["results/c.json", "results/d.json"])
    for pair in pairs:
        flow.start(*pair)
        wait_for("both jobs", lambda: flow.said.count("submitted as") == 2 * len(flow.started))
    flow.wait_for_steps(3)
    before = {job for job, _ in cluster.queue()}
    flow.kill()
    flow.unlock()
    again = [flow.start(*pair) for pair in pairs]
    wait_for("being found", lambda: flow.said.count("ttached to") == 4 or again[0].poll() is not None)
    assert {job for job, _ in cluster.queue()} == before
    flow.hurry()
    for process in again:
        flow.finish(process)
    for name in flow.runs:
        assert len(flow.check(name)) == 1
    flow.check_nothing_is_left()


def test_what_is_no_longer_wanted_is_cancelled(toy: Callable[..., Toy], cluster: SlurmCluster) -> None:
    """Those jobs of the same workflow; those still wanted, and another workflow's, are kept."""
    flow = toy(foreign=LONG)
    flow.start("results/foreign.json")
    flow.wait_for_steps(3, "foreign")
    waiting = LONG | {"slurm_extra": "--begin=now+1hour"}
    flow.runs = {"a": LONG, "gone": LONG, "unneeded": waiting}
    flow.write_runs()
    flow.start("all")
    flow.wait_for_steps(3, "a", "gone")
    kept = {name: flow.job(name) for name in ("a", "foreign")}
    flow.kill()

    flow.runs = {"a": LONG}
    flow.write_runs()
    flow.unlock()
    process = flow.start("all")
    wait_for("the others' end", lambda: len(cluster.queue()) == 2 or process.poll() is not None)
    assert flow.said.count("not wanted any more") == 2
    assert {job for job, _ in cluster.queue("%A %T")} == set(kept.values())
    flow.hurry("a")
    flow.finish(process)
    assert [sitting.job for sitting in flow.check("a")] == [kept["a"]]
    assert len(cluster.queue()) == 1
