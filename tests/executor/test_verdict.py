"""How a job ended, and what its user is told."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest
from plugin_doubles import FakeCluster, Recorder, submitted

from snakemake_executor_plugin_submitit.clusters import State
from snakemake_executor_plugin_submitit.jobs import Job
from snakemake_executor_plugin_submitit.progress import Restarts
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.verdict import LAG, PATIENCE, Ended, News, verdict


class Case:
    """One job, what SLURM says of it, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.one = folder, submitted(folder)
        self.cluster, self.log, self.settings = FakeCluster(), Recorder(), ExecutorSettings()
        self.now = 0.0

    def look(self, state: str | None, reason: str = "", after: float = 0.0) -> Ended | None:
        self.now += after
        view = {} if state is None else {"7": State(state, reason, "node1")}
        return verdict(self.one, view, self.cluster, self.settings, self.log)

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
    assert case.look(None) is None
    assert case.look(None, after=LAG - 1) is None
    case.result("success")
    assert case.look(None) == Ended(True)


def test_what_slurm_calls_completed_has_succeeded_even_if_no_disk_could_take_its_result(case: Case) -> None:
    assert case.look("COMPLETED") == Ended(True)


def test_a_job_that_nobody_knows_any_more(case: Case) -> None:
    assert case.look(None) is None
    assert case.look("RUNNING", after=LAG) is None  # it was only late
    assert case.look(None) is None
    ended = case.look(None, after=LAG + 1)
    assert ended is not None
    assert "does not know it" in ended.reason


def test_without_a_queue_only_success_is_certain(case: Case) -> None:
    def blind(one: Job) -> Ended | None:
        return verdict(one, None, case.cluster, case.settings, case.log)

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
    Restarts(starts=1, requeued="the time limit is near").write(case.folder / "7_restarts.json")
    assert case.look("TIMEOUT") is None
    assert case.cluster.restarted == ["7"]


def wait(case: Case, reason: str, seconds: float = PATIENCE, **resources: object) -> str:
    """Let a job wait for a reason and return what is said."""
    case.one = submitted(case.folder, **resources)
    waiting = News(case.cluster, case.log)
    view = {"7": State("PENDING", reason, start="2030-01-01T10:00:00")}
    for _ in range(3):
        assert not waiting.look([case.one], view)
        case.now += seconds
    return "\n".join(case.log.said)


def test_a_reason_is_told_once_it_has_lasted_a_minute(case: Case) -> None:
    assert wait(case, "Resources", seconds=20) == ""
    assert wait(case, "Resources").count("the nodes that fit are busy") == 1


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("launch failed requeued held", "scontrol release 7"),
        ("JobHeldUser", "scontrol release 7"),
        ("BeginTime", "not start before 2030-01-01T10:00:00"),
        ("Dependency", "whose place it takes has ended"),
        ("Licenses", "licenses"),
        ("Reservation", "scontrol show reservation"),
        ("ReqNodeNotAvail, UnavailableNodes:node[1-4]", "sinfo -R"),
        ("Nodes required for job are DOWN, DRAINED or reserved", "sinfo -R"),
        ("QOSMaxJobsPerUserLimit", "others have to end first"),
        ("AssocGrpGRES", "others have to end first"),
        ("Priority", "expected to start at 2030-01-01T10:00:00"),
        ("SomethingNew", "scontrol show job"),
    ],
)
def test_why_a_job_waits_and_what_helps(case: Case, reason: str, said: str) -> None:
    words = wait(case, reason)
    assert f"({reason}; 7, train a)" in words
    assert said in words


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("PartitionTimeLimit", "--set-resources train:runtime=MINUTES"),
        ("QOSMaxGRESPerJob", "more than one job may have"),
        ("QOSMaxCpuPerJobLimit", "more than one job may have"),
    ],
)
def test_a_job_that_would_wait_for_ever_fails_with_what_to_change(case: Case, reason: str, said: str) -> None:
    waiting = News(case.cluster, case.log)
    view = {"7": State("PENDING", reason)}
    assert not waiting.look([case.one], view)
    case.now += PATIENCE
    ((one, why),) = waiting.look([case.one], view)
    assert one is case.one
    assert said in why
