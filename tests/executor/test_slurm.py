"""What squeue and sacct say."""

from __future__ import annotations

from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.clusters import LONGEST, SOONEST, Cluster, State
from snakemake_executor_plugin_submitit.resources import request
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.slurm import Slurm, parse_squeue

SQUEUE = """12_0|RUNNING|node1|None|2030-01-01T10:00:00|train a (snakemake run token)
12_1|PENDING||Resources|N/A|train b (snakemake run token)
13|OUT_OF_MEMORY|node[2-3]|OutOfMemory|2030-01-01T10:00:00|(null)
14|PENDING||launch failed requeued held|N/A|a|b
"""
SACCT = """12_0|COMPLETED|node1
12_1|CANCELLED by 1000|None assigned
13|NODE_FAIL|node2
"""
USED = """12_0|90|01:02.500||
12_0.batch|90|01:02.500|204800K|cpu=00:01:02,gres/gpuutil=35
"""
CONFIG = "Configuration data as of now\nMaxArraySize            = 10\nAccountingStorageType   = {}\n"


def tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def slurm(tools: Path, accounting: str = "accounting_storage/slurmdbd", **settings: object) -> Slurm:
    tool(tools, "scontrol", f"echo {CONFIG.format(accounting)!r}".replace("echo '", "printf '"))
    return Slurm(ExecutorSettings(**settings))  # type: ignore[arg-type]


def test_squeue() -> None:
    states = parse_squeue(SQUEUE)
    assert states["12_0"].reason == ""
    assert states["12_0"].nodes == "node1"
    assert states["12_0"].comment == "train a (snakemake run token)"
    assert (states["12_1"].reason, states["12_1"].start) == ("Resources", "")
    assert states["14"] == State("PENDING", "launch failed requeued held", "", "a|b")
    assert [job for job, one in states.items() if one.ended] == ["13"]
    assert set(parse_squeue("5|RUNNING|n|None|N/A|x", "north")) == {"5@north"}


def test_sacct(tools: Path) -> None:
    tool(tools, "sacct", f"cat <<'E'\n{SACCT}E")
    states = slurm(tools).remembered(["12_0", "12_1", "13"])
    assert states["12_1"] == State("CANCELLED", "by 1000", "")
    assert states["13"].nodes == "node2"
    assert all(one.ended for one in states.values())


def test_what_jobs_used(tools: Path) -> None:
    tool(tools, "sacct", f"cat <<'E'\n{USED}E")
    (used,) = slurm(tools).used(["12_0"]).values()
    assert used == pytest.approx({"seconds": 90, "cpu_seconds": 62.5, "mem_mb": 200, "gpu_percent": 35})


@pytest.mark.parametrize("state", ["COMPLETING", "REQUEUED", "SUSPENDED", "CONFIGURING", "SPECIAL_EXIT"])
def test_what_may_go_on_has_not_ended(state: str) -> None:
    assert not State(state).ended


def test_a_queue_that_cannot_be_read(tools: Path) -> None:
    tool(tools, "squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    cluster = slurm(tools)
    assert cluster.look([]) is None
    assert "Unable to contact" in cluster.trouble
    tool(tools, "squeue", "printf '5|RUNNING|n|None|N/A|\n'")
    assert cluster.look([]) == {"5": State("RUNNING", "", "n", "")}


def test_only_ones_own_jobs_whatever_the_environment_says(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("LOGNAME", "somebody"), ("USER", "somebody"), ("SQUEUE_PARTITION", "none")):
        monkeypatch.setenv(name, value)
    tool(tools, "squeue", f'echo "$@" > {tools}/asked; env > {tools}/environment')
    slurm(tools).look([])
    assert "--me" in (tools / "asked").read_text()
    assert "somebody" not in (tools / "asked").read_text()
    assert "SQUEUE_" not in (tools / "environment").read_text()


def test_without_accounting_nobody_is_asked(tools: Path) -> None:
    tool(tools, "sacct", f"touch {tools}/called")
    cluster = slurm(tools, "(null)")
    assert cluster.remembered(["5"]) == {}
    assert cluster.used(["5"]) == {}
    assert not (tools / "called").exists()


def test_arrays_are_as_large_as_slurm_allows(tools: Path) -> None:
    assert slurm(tools).arrays == 10
    assert slurm(tools, array_size=4).arrays == 4
    cluster = slurm(tools)
    tool(tools, "scontrol", "exit 1")
    assert cluster.arrays == 100


def test_arrays_are_asked_about_and_cancelled_as_a_whole(tools: Path) -> None:
    calls = tools / "calls"
    tool(tools, "sacct", f'echo "$*" >> {calls}')
    tool(tools, "scancel", f'echo "$*" >> {calls}')
    cluster = slurm(tools)
    cluster.remembered(["12_0", "12_1", "13"])
    cluster.cancel(["12_0", "12_1", "13", "14_5"], whole_arrays=["12"])
    asked, cancelled = calls.read_text().splitlines()
    assert asked.endswith("-j 12,13")
    assert cancelled == "--quiet 12 13 14_5"


def test_every_cluster_is_asked_about_its_own(tools: Path) -> None:
    calls = tools / "calls"
    for name in ("squeue", "sacct", "scancel"):
        tool(tools, name, f'echo {name} "$@" >> {calls}')
    cluster = slurm(tools)
    cluster.look(["12_0@north"])
    cluster.remembered(["12_0@north", "13"])
    cluster.cancel(["12_0@north", "12_1@north"], whole_arrays=["12@north"])
    asked = calls.read_text().splitlines()
    assert sum("squeue" in line and "--clusters=north" in line for line in asked) == 1
    assert sorted(line.split("-j ")[1] for line in asked if "sacct" in line) == ["12 --clusters=north", "13"]
    assert asked[-1] == "scancel --quiet --clusters=north 12"


def test_the_limit_of_a_partition(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = slurm(tools)
    tool(
        tools,
        "scontrol",
        "echo PartitionName=short Default=NO MaxTime=00:30:00\n"
        "echo PartitionName=long Default=YES MaxTime=UNLIMITED",
    )
    assert cluster.longest(request({}, 1)) == float("inf")
    assert cluster.longest(request({"slurm_partition": "short"}, 1)) == 30
    monkeypatch.setenv("SBATCH_PARTITION", "short")
    assert cluster.longest(request({}, 1)) == 30


def test_the_place_in_the_queue(tools: Path) -> None:
    cluster = slurm(tools)
    tool(tools, "squeue", "printf '9|gpu\n12_0|gpu\n12_1|gpu\n7|cpu\n'")
    assert cluster.place_in_queue("12_1") == "place 3 of 3 in gpu"


@pytest.mark.parametrize(
    ("quiet", "answer_took", "expected"),
    [
        (0, 0, SOONEST),
        (5, 0, SOONEST),
        (100, 0, 10),
        (10_000, 0, 30),
        (0, 2, 20),  # a busy controller
        (10_000, 60, LONGEST),
    ],
)
def test_pause(quiet: float, answer_took: float, expected: float) -> None:
    cluster = Cluster(ExecutorSettings())
    cluster.seconds = answer_took
    assert cluster.pause(quiet, 30) == expected
