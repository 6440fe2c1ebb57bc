"""What squeue and sacct say."""

from __future__ import annotations

from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.queue import Queue, Seen, cancel, parse_sacct, parse_squeue

SQUEUE = """12_0|RUNNING|node1|None|snakemake run token
12_1|PENDING||Resources|snakemake run token
13|OUT_OF_MEMORY|node[2-3]|OutOfMemory|(null)
14|PENDING||launch failed requeued held|a|b
"""
SACCT = """12_0|COMPLETED|node1
12_1|CANCELLED by 1000|None assigned
13|NODE_FAIL|node2
"""


def tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def test_squeue() -> None:
    seen = parse_squeue(SQUEUE)
    assert seen["12_0"] == Seen("RUNNING", "", "node1", "snakemake run token")
    assert seen["12_1"].reason == "Resources"
    assert seen["14"] == Seen("PENDING", "launch failed requeued held", "", "a|b")
    assert [job for job, one in seen.items() if one.ended] == ["13"]


def test_sacct() -> None:
    seen = parse_sacct(SACCT)
    assert seen["12_1"] == Seen("CANCELLED", "by 1000", "")
    assert seen["13"].nodes == "node2"
    assert all(one.ended for one in seen.values())


@pytest.mark.parametrize("state", ["COMPLETING", "REQUEUED", "SUSPENDED", "CONFIGURING", "SPECIAL_EXIT"])
def test_what_may_go_on_has_not_ended(state: str) -> None:
    assert not Seen(state).ended


def test_a_queue_that_cannot_be_read(tools: Path) -> None:
    tool(tools, "squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    queue = Queue()
    assert queue.look() is None
    assert "Unable to contact" in queue.trouble
    tool(tools, "squeue", "printf '5|RUNNING|n|None|\\n'")
    assert queue.look() == {"5": Seen("RUNNING", "", "n", "")}
    assert queue.polls == 2


def test_without_accounting_nobody_is_asked_twice(tools: Path) -> None:
    calls = tools / "calls"
    tool(tools, "sacct", f"echo x >> {calls}; echo 'Slurm accounting storage is disabled' >&2; exit 1")
    queue = Queue()
    assert queue.remembered(["5"]) == {}
    assert queue.remembered(["5"]) == {}
    assert calls.read_text() == "x\n"


def test_arrays_are_asked_about_and_cancelled_as_a_whole(tools: Path) -> None:
    calls = tools / "calls"
    tool(tools, "sacct", f'echo "$@" >> {calls}')
    tool(tools, "scancel", f'echo "$@" >> {calls}')
    Queue().remembered(["12_0", "12_1", "13"])
    cancel(["12_0", "12_1", "13", "14_5"], whole_arrays=["12"])
    asked, cancelled = calls.read_text().splitlines()
    assert asked.endswith("-j 12,13")
    assert cancelled == "--quiet 12 13 14_5"
