"""What happens when sbatch does not do as it is told."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from plugin_doubles import FakeCluster, Recorder, prepared

from snakemake_executor_plugin_submitit.batch import Batch, group
from snakemake_executor_plugin_submitit.command import Command
from snakemake_executor_plugin_submitit.queue import Seen
from snakemake_executor_plugin_submitit.registry import Registry
from snakemake_executor_plugin_submitit.sbatch import SubmissionError
from snakemake_executor_plugin_submitit.submitter import Submitter


class Desk:
    """A submitter with everything around it."""

    def __init__(self, folder: Path, cluster: FakeCluster, retries: int = 2) -> None:
        self.folder, self.cluster, self.log = folder, cluster, Recorder()
        self.taken: list[tuple[int, str]] = []
        self.refused: list[str] = []
        self.registry = Registry(folder / "jobs")
        self.submitter = Submitter(
            cluster,
            self.registry,
            "run",
            retries,
            self.log,
            submitted=lambda batch, job_id: self.taken.append((len(batch.jobs), job_id)),
            refused=lambda one, why: self.refused.append(why),
        )

    def submit(self, jobs: int = 1) -> None:
        self.submitter.submit(Batch([prepared(self.folder, f"job{number}") for number in range(jobs)]))


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock is five minutes later, so no pause is waited for."""
    now = iter(range(0, 10**9, 300))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))


def failing(times: int, words: str = "Socket timed out on send/recv operation") -> FakeCluster:
    def send(commands: Sequence[Command], token: str) -> str:
        if len(cluster.sent) <= times:
            raise SubmissionError(words)
        return "12"

    cluster = FakeCluster(send)
    return cluster


def test_a_failure_is_tried_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path, failing(2))
    desk.submit()
    assert not desk.taken
    desk.submitter.submit_postponed()
    desk.submitter.submit_postponed()
    assert desk.taken == [(1, "12")]
    assert not desk.refused
    assert "try 3 of 3" in desk.log.said[-1]
    assert desk.registry.ids() == ["12"]


def test_after_the_last_try_that_job_fails_with_sbatchs_words(tmp_path: Path) -> None:
    desk = Desk(tmp_path, failing(99))
    desk.submit()
    for _ in range(5):
        desk.submitter.submit_postponed()
    (why,) = desk.refused
    assert "3 times" in why
    assert "Socket timed out" in why
    assert desk.registry.find("job0") is None


@pytest.mark.parametrize(
    "words",
    [
        "sbatch: error: Batch job submission failed: Invalid partition name specified",
        "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
        "sbatch: error: Batch job submission failed: Requested node configuration is not available",
        "sbatch: error: Batch job submission failed: Invalid qos specification",
        "sbatch: error: Batch job submission failed: Invalid generic resource (gres) specification",
        "sbatch: error: Memory specification can not be satisfied",
        "sbatch: unrecognized option '--exclud=node1'",
    ],
)
def test_what_will_never_be_taken_is_not_tried_again(tmp_path: Path, words: str) -> None:
    desk = Desk(tmp_path, failing(99, words))
    desk.submit()
    assert len(desk.cluster.sent) == len(desk.refused) == 1


@pytest.mark.parametrize(
    "words",
    [
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "sbatch: error: QOSMaxSubmitJobPerUserLimit",
        "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, ...)",
        "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
        "sbatch did not answer within 120 seconds",
    ],
)
def test_what_may_pass_is(words: str) -> None:
    assert not SubmissionError(words).permanent


def test_an_array_over_a_limit_goes_in_halves(tmp_path: Path) -> None:
    def send(commands: Sequence[Command], token: str) -> str:
        if len(commands) > 2:
            raise SubmissionError("Job violates accounting/QOS policy (job submit limit)")
        return str(len(cluster.sent))

    cluster = FakeCluster(send)
    desk = Desk(tmp_path, cluster, retries=3)
    desk.submit(jobs=5)
    for _ in range(3):
        desk.submitter.submit_postponed()
    assert cluster.sent == [5, 3, 2, 2, 1]
    assert sum(size for size, _ in desk.taken) == 5
    assert not desk.refused


def test_a_job_that_was_taken_though_sbatch_failed_is_not_sent_twice(tmp_path: Path) -> None:
    def send(commands: Sequence[Command], token: str) -> str:
        cluster.queue = {"31_0": Seen("PENDING", comment=f"snakemake run {token}")}
        raise SubmissionError("Socket timed out on send/recv operation")

    cluster = FakeCluster(send)
    desk = Desk(tmp_path, cluster)
    desk.submit(jobs=2)
    assert desk.taken == [(2, "31")]
    assert desk.registry.ids() == ["31_0", "31_1"]


def test_batches_hold_jobs_that_ask_for_the_same(tmp_path: Path) -> None:
    small = [prepared(tmp_path, f"small{number}") for number in range(5)]
    large = [prepared(tmp_path, f"large{number}", mem_mb=9000) for number in range(2)]
    batches = group([small[0], large[0], *small[1:], large[1]], 3)
    assert [[one.print.key for one in batch.jobs] for batch in batches] == [
        ["small0", "small1", "small2"],
        ["small3", "small4"],
        ["large0", "large1"],
    ]
    assert len({batch.token for batch in batches}) == 3
