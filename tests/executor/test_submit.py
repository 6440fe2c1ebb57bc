"""What happens when sbatch does not do as it is told."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest
from plugin_doubles import FakeCluster, Recorder, prepared

from snakemake_executor_plugin_submitit.clusters import State
from snakemake_executor_plugin_submitit.jobs import Batch, group
from snakemake_executor_plugin_submitit.slurm import refusal
from snakemake_executor_plugin_submitit.submissions import Registry, Submitter


class Desk:
    """A submitter with everything around it."""

    def __init__(self, folder: Path, cluster: FakeCluster, retries: int = 2) -> None:
        self.folder, self.cluster, self.log = folder, cluster, Recorder()
        self.taken: list[tuple[int, str]] = []
        self.refused: list[str] = []
        self.registry = Registry(folder / "submissions", "flow", self.log)
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
        self.submitter.submit([Batch([prepared(self.folder, f"job{number}") for number in range(jobs)])])


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock is five minutes later, so no pause is waited for."""
    now = iter(range(0, 10**9, 300))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))


def failing(times: int, words: str = "Socket timed out on send/recv operation") -> FakeCluster:
    def send(batch: Batch) -> str:
        if len(cluster.sent) <= times:
            raise refusal(words)
        return "12"

    cluster = FakeCluster(send)
    return cluster


def test_a_failure_is_tried_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path, failing(2))
    desk.submit()
    assert not desk.taken
    desk.submitter.send_due()
    desk.submitter.send_due()
    assert desk.taken == [(1, "12")]
    assert not desk.refused
    assert "try 3 of 3" in desk.log.said[-1]
    assert desk.registry.ids() == ["12"]


def test_after_the_last_try_that_job_fails_with_sbatchs_words(tmp_path: Path) -> None:
    desk = Desk(tmp_path, failing(99))
    desk.submit()
    for _ in range(5):
        desk.submitter.send_due()
    (why,) = desk.refused
    assert "3 times" in why
    assert "Socket timed out" in why
    assert desk.registry.find("job0") is None


def test_what_will_never_be_taken_is_not_tried_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path, failing(99, "Invalid partition name specified"))
    desk.submit()
    assert len(desk.cluster.sent) == len(desk.refused) == 1


def test_a_limit_is_waited_for_without_end_and_said_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path, failing(50, "AssocMaxSubmitJobLimit accounting/QOS policy"))
    desk.submit()
    for _ in range(50):
        desk.submitter.send_due()
    assert desk.taken == [(1, "12")]
    assert not desk.refused
    (words,) = desk.log.said
    assert "AssocMaxSubmitJobLimit" in words


def test_as_many_go_as_a_limit_lets_pass_and_others_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    places = [5]

    def send(batch: Batch) -> str:
        if len(batch.jobs) > places[0]:
            raise refusal("AssocMaxSubmitJobLimit")
        places[0] -= len(batch.jobs)
        return str(len(cluster.sent))

    cluster = FakeCluster(send)
    desk = Desk(tmp_path, cluster)
    desk.submit(jobs=16)
    assert sum(size for size, _ in desk.taken) == 5
    calls = len(cluster.sent)
    assert calls < 12
    for _ in range(11):
        places[0] += 1  # one of them has ended
        desk.submitter.places_free()
        desk.submitter.send_due()
    assert sum(size for size, _ in desk.taken) == 16
    assert not desk.refused


def test_an_array_that_is_too_large_goes_in_halves(tmp_path: Path) -> None:
    def send(batch: Batch) -> str:
        if len(batch.jobs) > 2:
            raise refusal("Batch job submission failed: Invalid job array specification")
        return str(len(cluster.sent))

    cluster = FakeCluster(send)
    desk = Desk(tmp_path, cluster)
    desk.submit(jobs=5)
    assert cluster.sent == [5, 3, 2, 1, 2]
    assert not desk.refused


def test_a_full_disk_is_waited_for(tmp_path: Path) -> None:
    def send(batch: Batch) -> str:
        if len(cluster.sent) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return "12"

    cluster = FakeCluster(send)
    desk = Desk(tmp_path, cluster)
    desk.submit()
    for _ in range(20):
        desk.submitter.send_due()
    assert desk.taken == [(1, "12")]
    assert "No space left" in desk.log.said[0]


def test_a_job_that_was_taken_though_sbatch_failed_is_not_sent_twice(tmp_path: Path) -> None:
    def send(batch: Batch) -> str:
        cluster.queue = {"31_0": State("PENDING", comment=f"train (snakemake run {batch.token})")}
        raise refusal("Socket timed out on send/recv operation")

    cluster = FakeCluster(send)
    desk = Desk(tmp_path, cluster)
    desk.submit(jobs=2)
    assert desk.taken == [(2, "31")]
    assert desk.registry.ids() == ["31_0", "31_1"]


def test_nor_one_that_the_controller_took_later(tmp_path: Path) -> None:
    tokens = []

    def send(batch: Batch) -> str:
        tokens.append(batch.token)
        raise refusal("Socket timed out on send/recv operation")

    cluster = FakeCluster(send)
    desk = Desk(tmp_path, cluster)
    desk.submit()
    assert not desk.taken
    cluster.queue = {"31": State("PENDING", comment=tokens[0])}
    desk.submitter.send_due()
    assert desk.taken == [(1, "31")]
    assert len(tokens) == 1


def test_batches_hold_jobs_that_ask_for_the_same(tmp_path: Path) -> None:
    small = [prepared(tmp_path, f"small{number}") for number in range(5)]
    large = [prepared(tmp_path, f"large{number}", mem_mb=9000) for number in range(2)]
    batches = group([small[0], large[0], *small[1:], large[1]], 3)
    assert [[one.key for one in batch.jobs] for batch in batches] == [
        ["small0", "small1", "small2"],
        ["small3", "small4"],
        ["large0", "large1"],
    ]
    assert len({batch.token for batch in batches}) == 3
