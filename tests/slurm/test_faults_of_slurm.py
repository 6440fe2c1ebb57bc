"""SLURM itself out of order: asked again until it answers, and no job suffers from it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from daemons import wait_for
from slurm_cluster import SlurmCluster
from toy_workflow import Toy

pytestmark = pytest.mark.slurm

QUICK = {"options": "--pause 0.1"}


def test_an_sbatch_that_fails_twice(toy: Callable[..., Toy]) -> None:
    flow = toy(a=QUICK, b=QUICK)
    flow.break_sbatch(2)
    told = flow.run()
    assert "Socket timed out" in told  # said, though nothing came of it
    for name in flow.runs:
        assert len(flow.check(name)) == 1
    flow.check_nothing_is_left()


def test_a_job_that_slurm_refuses(toy: Callable[..., Toy]) -> None:
    """Only that one fails, with SLURM's own words."""
    flow = toy(a=QUICK, b=QUICK | {"slurm_extra": "--constraint=nowhere"}, c=QUICK)
    told = flow.run(status=1)
    assert "Invalid feature specification" in told
    for name in ("a", "c"):
        assert len(flow.check(name)) == 1
    assert not flow.trained("b")


def test_the_controller_gone_for_half_a_minute(toy: Callable[..., Toy], cluster: SlurmCluster) -> None:
    """Runs go on and end meanwhile; what is to be submitted then waits."""
    flow = toy(**{name: {"options": "--steps 30"} for name in "abcd"})
    process = flow.start("--jobs", "2")
    wait_for("two runs", lambda: sum(len(flow.trained(name)) >= 7 for name in flow.runs) == 2)
    cluster.stop_controller()
    time.sleep(30)
    assert process.poll() is None, flow.said
    cluster.start_controller()
    flow.hurry()
    told = flow.finish(process)
    assert "SLURM does not answer" in told
    assert "SLURM answers again" in told
    for name in flow.runs:
        assert len(flow.check(name)) == 1
    flow.check_nothing_is_left()
