"""Jobs that the cluster ends or moves: SLURM starts the same job again, and the run goes on where it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from daemons import wait_for
from slurm_cluster import SlurmCluster
from toy_workflow import Toy

pytestmark = pytest.mark.slurm

RUN = {"options": "--steps 500", "gpu": 2}


def finish(flow: Toy, process: object, killed: dict[str, int]) -> None:
    """Let every run go to its end and check it: one job each, started once more for every time it was ended."""
    flow.hurry()
    told = flow.finish(process)  # type: ignore[arg-type]
    assert "Error" not in told
    for name, times in killed.items():
        sittings = flow.check(name, killed=times)
        assert len(sittings) == times + 1
        assert len({sitting.job for sitting in sittings}) == 1
    flow.check_nothing_is_left()


def test_a_time_limit_hit_three_times(toy: Callable[..., Toy]) -> None:
    limited = {"options": "--steps 1000 --interval 1000", "runtime": 1}
    flow = toy(a=limited, b=limited)
    process = flow.start()
    wait_for(
        "three time limits",
        lambda: all(len(flow.sittings(name)) > 3 for name in flow.runs) or process.poll() is not None,
        480,
    )
    flow.hurry()
    flow.finish(process)
    for name in flow.runs:
        # The only checkpoints are those that were asked for before the limit, so nothing was done twice.
        sittings = flow.check(name, killed=0)
        assert len(sittings) >= 4
        assert len({sitting.job for sitting in sittings}) == 1
    flow.check_nothing_is_left()


def test_requeued_by_hand(toy: Callable[..., Toy], cluster: SlurmCluster) -> None:
    flow = toy(a=RUN, b=RUN)
    process = flow.start()
    flow.wait_for_steps(7)
    assert all(len(line["gpus"].split(",")) == 2 for line in flow.trained("a"))
    for restarts in (1, 2):
        cluster.ask("scontrol", "requeue", cluster.one(flow.job("a")))
        wait_for("another start", lambda: len(flow.sittings("a")) > restarts)  # noqa: B023
    finish(flow, process, {"a": 2, "b": 0})


def test_preempted(toy: Callable[..., Toy], cluster: SlurmCluster) -> None:
    flow = toy(a=RUN, b=RUN)
    process = flow.start()
    flow.wait_for_steps(7)
    urgent = ["sbatch", "--parsable", "--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null"]
    job = cluster.ask(*urgent, "--wrap", "sleep 3").strip()
    wait_for("the urgent job", lambda: [job, "RUNNING"] in cluster.queue())
    wait_for("both again", lambda: all(len(flow.sittings(name)) == 2 for name in flow.runs))
    finish(flow, process, {"a": 1, "b": 1})


def test_a_node_lost(toy: Callable[..., Toy], cluster: SlurmCluster) -> None:
    # Each fills a node, so that one is lost without the other.
    whole = RUN | {"gpu": 4}
    flow = toy(a=whole, b=whole)
    process = flow.start()
    flow.wait_for_steps(7)
    lost = flow.node("a")
    assert flow.node("b") != lost
    assert cluster.lose_node(lost) > 3
    wait_for("another start", lambda: len(flow.sittings("a")) == 2, 120)
    assert flow.node("a") != lost
    finish(flow, process, {"a": 1, "b": 0})


def test_drained_nodes(toy: Callable[..., Toy], cluster: SlurmCluster) -> None:
    """What runs there ends there; what is requeued starts elsewhere."""
    flow = toy(a=RUN, b=RUN | {"gpu": 4})
    process = flow.start()
    flow.wait_for_steps(7)
    drained = {flow.node(name) for name in flow.runs}
    for node in drained:
        cluster.ask("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    cluster.ask("scontrol", "requeue", cluster.one(flow.job("a")))
    wait_for("another start", lambda: len(flow.sittings("a")) == 2)
    assert flow.node("a") not in drained
    assert flow.node("b") in drained
    finish(flow, process, {"a": 1, "b": 0})
