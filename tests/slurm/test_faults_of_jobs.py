"""Jobs that fail by themselves: what is said, what goes on, and how the run is taken up again."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import wait_for
from slurm_cluster import SlurmCluster
from toy_workflow import Toy

pytestmark = pytest.mark.slurm


def test_a_failing_job(toy: Callable[..., Toy]) -> None:
    quick = {"options": "--pause 0.1"}
    flow = toy(a=quick, b={"options": "--pause 0.1 --fail-at 7"}, c=quick)
    told = flow.run(status=1)
    # What is needed to look further: SLURM's job, what became of it, and the logs.
    assert "FAILED" in told
    line = flow.trained("b")[-1]
    numbers = line["job_id"], f"{line['array_job_id']}_{line['array_task_id']}"  # one, or one of an array
    assert any(re.search(rf"\b{number}\b", told) for number in numbers)
    assert "logs/b.log" in told
    assert (log := re.search(r"\S+_log\.(out|err)", told))
    assert Path(flow.folder / log[0]).exists()
    assert "the toy was told to fail here" in (flow.folder / "logs" / "b.log").read_text()
    for name in ("a", "c"):  # nothing else is affected
        assert len(flow.check(name)) == 1

    flow.runs["b"] = quick
    flow.write_runs()
    flow.run()
    first, second = flow.check("b", killed=1)
    assert (first.steps[-1], second.steps[0]) == (6, 5)
    assert len(flow.sittings("a")) == 1
    flow.check_nothing_is_left()


@pytest.mark.parametrize("kind", ["cgroup_cluster", "plain_cluster"])
def test_a_job_that_needs_more_memory_than_it_asked_for(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Limited by the kernel, or measured by SLURM, which calls such a job FAILED."""
    cluster: SlurmCluster = request.getfixturevalue(kind)
    options = "--pause 0.3 --waste-mb 60 --steps 30"
    flow = Toy(tmp_path / "toy", cluster, {"a": {"options": options, "mem_mb": 500}})
    told = flow.run(status=1)
    assert "memory" in told
    assert re.search(r"\b500 ?M", told)
    assert "mem_mb" in told
    assert not cluster.queue()

    flow.runs["a"]["mem_mb"] = 4000
    flow.write_runs()
    flow.hurry()
    flow.run()
    flow.check("a", killed=1)
    flow.check_nothing_is_left()


def test_a_job_that_gets_no_further(toy: Callable[..., Toy], cluster: SlurmCluster) -> None:
    """Started again twice without having done anything, it is given up with that reason."""
    flow = toy(stuck={"options": "--pause 1000"})
    process = flow.start("--submitit-stalled-restarts", "2")
    lock = flow.folder / "state" / "stuck" / "lock"
    for _ in range(2):
        wait_for("the toy's start", lambda: lock.exists() or process.poll() is not None, 120)
        lock.unlink()
        ((job, _),) = cluster.queue()
        cluster.ask("scontrol", "requeue", job)
    told = flow.finish(process, status=1)
    assert "without any progress" in told
    assert "checkpoint.json" in told
    assert not flow.trained("stuck")
    assert not cluster.queue()
