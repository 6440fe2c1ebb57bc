"""How a job ended, and what its user is told."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest
from plugin_doubles import FakeCluster, Recorder, submitted

from snakemake_executor_plugin_submitit.batch import Submitted
from snakemake_executor_plugin_submitit.judge import Ended, judge
from snakemake_executor_plugin_submitit.progress import Restarts
from snakemake_executor_plugin_submitit.queue import Seen
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.verdict import LAG


class Case:
    """One job, what SLURM says of it, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.one = folder, submitted(folder)
        self.cluster, self.log, self.settings = FakeCluster(), Recorder(), ExecutorSettings()
        self.now = 0.0

    def look(self, state: str | None, reason: str = "", after: float = 0.0) -> Ended | None:
        self.now += after
        view = {} if state is None else {"7": Seen(state, reason, "node1")}
        return judge(self.one, view, self.cluster, self.settings, self.log)

    def result(self, kind: str, value: str = "done") -> None:
        (self.folder / "7_0_result.pkl").write_bytes(pickle.dumps((kind, value)))


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    case = Case(tmp_path)
    monkeypatch.setattr(time, "monotonic", lambda: case.now)
    return case


def test_success_is_a_result_of_a_job_that_ended(case: Case) -> None:
    assert case.look("RUNNING") is None
    case.result("success")
    assert case.look("COMPLETED") == Ended(True)


def test_a_failure_counts_only_when_slurm_is_done_with_the_job(case: Case) -> None:
    case.result("error", "Traceback ...\nsnakemake...CommandFailed: its command ended with status 3\n")
    assert case.look("COMPLETING") is None
    ended = case.look("FAILED")
    assert ended is not None
    assert (ended.success, ended.reason) == (False, "its command ended with status 3")
    assert (ended.state, ended.nodes) == ("FAILED", "node1")


def test_a_result_may_be_late_on_a_shared_disk(case: Case) -> None:
    assert case.look("COMPLETED") is None
    assert case.look("COMPLETED", after=LAG - 1) is None
    case.result("success")
    assert case.look("COMPLETED") == Ended(True)


def test_no_result_at_all(case: Case) -> None:
    case.look("COMPLETED")
    ended = case.look("COMPLETED", after=LAG + 1)
    assert ended is not None
    assert "shared disk" in ended.reason


def test_a_job_that_nobody_knows_any_more(case: Case) -> None:
    assert case.look(None) is None
    assert case.look("RUNNING", after=LAG) is None  # it was only late
    assert case.look(None) is None
    ended = case.look(None, after=LAG + 1)
    assert ended is not None
    assert "does not know it" in ended.reason


def test_without_a_queue_only_success_is_certain(case: Case) -> None:
    def blind(one: Submitted) -> Ended | None:
        return judge(one, None, case.cluster, case.settings, case.log)

    case.result("error", "CommandFailed: no")
    assert blind(case.one) is None
    case.result("success")
    assert blind(case.one) == Ended(True)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("OUT_OF_MEMORY", ["mem_mb=4000", "--set-resources train:mem_mb=8000"]),
        ("TIMEOUT", ["60 minutes", "--set-resources train:runtime=120"]),
        ("CANCELLED", ["cancelled"]),
        ("DEADLINE", ["DEADLINE"]),
    ],
)
def test_the_reason_says_what_to_do(case: Case, state: str, said: list[str]) -> None:
    case.look(state)
    ended = case.look(state, after=LAG)
    assert ended is not None
    assert all(words in ended.reason for words in said)


def test_a_kill_for_memory_is_told_from_other_failures_by_the_log(case: Case) -> None:
    case.one.log.write_text("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.batch.\n")
    case.result("error", "CommandFailed: its command ended with status 137")
    ended = case.look("FAILED")
    assert ended is not None
    assert "exceeded its memory" in ended.reason


def test_a_gpu_out_of_memory_is_not_the_nodes(case: Case) -> None:
    case.one.log.write_text("torch.OutOfMemoryError: CUDA out of memory\n")
    case.result("error", "CommandFailed: its command ended with status 1")
    ended = case.look("FAILED")
    assert ended is not None
    assert ended.reason == "its command ended with status 1"


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED", "BOOT_FAIL"])
def test_what_slurm_lost_is_started_again_under_its_id(case: Case, state: str) -> None:
    assert case.look(state) is None
    assert case.cluster.restarted == ["7"]
    case.cluster.can_restart = False
    case.look(state)
    ended = case.look(state, after=LAG)
    assert ended is not None
    assert not ended.success


def test_nothing_is_started_again_where_the_user_forbids_it(case: Case) -> None:
    case.settings.no_requeue = True
    case.look("NODE_FAIL")
    assert case.look("NODE_FAIL", after=LAG) is not None
    assert not case.cluster.restarted


def test_a_job_whose_own_request_did_not_get_through(case: Case) -> None:
    """The controller was away when the job, near its limit, asked to be started again."""
    Restarts(case.folder / "7_restarts.json", starts=1, requeued="the time limit is near").write()
    assert case.look("TIMEOUT") is None
    assert case.cluster.restarted == ["7"]


def test_a_job_that_will_wait_for_ever_is_told_of_once(case: Case) -> None:
    for _ in range(3):
        assert case.look("PENDING", "launch failed requeued held") is None
    (words,) = case.log.said
    assert "scontrol release 7" in words
