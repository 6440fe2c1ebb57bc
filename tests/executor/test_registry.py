"""The journal of submissions survives whatever ends Snakemake, and says what became of a job."""

from __future__ import annotations

import errno
import os
import pickle
import time
from pathlib import Path

import pytest
from plugin_doubles import FakeCluster, Recorder, prepared

from snakemake_executor_plugin_submitit.clusters import State
from snakemake_executor_plugin_submitit.jobs import Batch
from snakemake_executor_plugin_submitit.submissions import Entry, Found, Registry, find


def registry(folder: Path, workflow: str = "flow") -> Registry:
    return Registry(folder / "submissions", workflow, Recorder())


def batch(folder: Path, *names: str, token: str = "token") -> Batch:
    return Batch([prepared(folder, name) for name in names], token=token)


def test_an_array_is_found_again(tmp_path: Path) -> None:
    first = registry(tmp_path)
    first.intend(batch(tmp_path, "a", "b"))
    first.submitted("token", "12")
    for one in (first, registry(tmp_path)):
        entry = one.find("b")
        assert entry is not None
        assert entry.job_id({}) == "12_1"
        assert entry.label == "train b"
        assert one.ids() == ["12_0", "12_1"]


def test_a_single_job_is_no_array(tmp_path: Path) -> None:
    one = registry(tmp_path)
    one.intend(batch(tmp_path, "a"))
    one.submitted("token", "12@north")
    assert registry(tmp_path).ids() == ["12@north"]


def test_killed_between_sbatch_and_its_answer(tmp_path: Path) -> None:
    registry(tmp_path).intend(batch(tmp_path, "a"))
    entry = registry(tmp_path).find("a")
    assert entry is not None
    assert entry.job_id({}) == ""
    assert entry.job_id({"12": State("PENDING", comment="train (snakemake run token)")}) == "12"


def test_what_ended_is_forgotten(tmp_path: Path) -> None:
    one = registry(tmp_path)
    one.intend(batch(tmp_path, "a", "b"))
    one.submitted("token", "12")
    for index in (0, 1):
        (tmp_path / f"token_{index}.pkl").touch()
    one.ended(["a"])
    assert [file.name for file in tmp_path.glob("*.pkl")] == ["token_1.pkl"]
    again = registry(tmp_path)
    assert again.find("a") is None
    assert again.ids() == ["12_1"]
    again.ended(["b"])
    assert not list((tmp_path / "submissions").iterdir())


def test_the_newest_submission_counts(tmp_path: Path) -> None:
    one = registry(tmp_path)
    for token, job_id in (("old", "1"), ("new", "2")):
        one.intend(batch(tmp_path, "a", token=token))
        one.submitted(token, job_id)
    assert one.ids() == registry(tmp_path).ids() == ["2"]
    assert [file.stem for file in (tmp_path / "submissions").iterdir()] == ["new"]


def test_two_workflows_in_one_folder_do_not_forget_each_others_jobs(tmp_path: Path) -> None:
    first, second = registry(tmp_path, "first"), registry(tmp_path, "second")
    for one, name, job_id in ((first, "a", "1"), (second, "b", "2"), (first, "c", "3")):
        one.intend(batch(tmp_path, name, token=name))
        one.submitted(name, job_id)
    first.ended(["c"])
    again, cluster = registry(tmp_path, "first"), FakeCluster()
    assert sorted(again.ids()) == ["1", "2"]
    cluster.queue = {"1": State("RUNNING"), "2": State("RUNNING")}
    again.cancel_unwanted(cluster, (), set(), set())
    assert cluster.cancelled == ["1"]


def test_a_full_disk_loses_nothing_but_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Recorder()
    one = Registry(tmp_path / "submissions", "flow", log)
    one.intend(batch(tmp_path, "a"))
    write = Path.write_bytes

    def full(self: Path, content: bytes) -> object:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    one.submitted("token", "12")
    assert "No space left" in log.said[0]
    with pytest.raises(OSError, match="No space left"):
        one.intend(batch(tmp_path, "b", token="other"))  # before it is submitted, it has to be known
    assert one.ids() == ["12"]
    monkeypatch.setattr(Path, "write_bytes", write)
    again = registry(tmp_path).find("a")
    assert again is not None
    assert again.job_id({"12": State("RUNNING", comment="token")}) == "12"


def test_what_is_not_wanted_any_more(tmp_path: Path) -> None:
    cluster, log = FakeCluster(), Recorder()
    one = Registry(tmp_path / "submissions", "flow", log)
    for number, name in enumerate("abcdef"):
        one.intend(batch(tmp_path, name, token=name))
        one.submitted(name, str(number))
    states = ["PENDING", "PENDING", "RUNNING", "RUNNING", "COMPLETED", "FAILED"]
    view = {str(number): State(state) for number, state in enumerate(states)}
    # b is done otherwise, c has just been found done, a and f have to run, the others are gone from the workflow
    cluster.queue = None
    assert not one.cancel_unwanted(cluster, (), {"a", "b", "c", "f"}, {"a", "f"})
    cluster.queue = view
    assert one.cancel_unwanted(cluster, (), {"a", "b", "c", "f"}, {"a", "f"})
    assert cluster.cancelled == ["1", "3"]
    assert [words.split(": ")[1] for words in log.said] == ["train b, SLURM job 1", "train d, SLURM job 3"]
    assert one.ids() == ["0", "2", "5"]


def looked_for(folder: Path, state: str | None, *, job_id: str = "7", **changed: str) -> Found | None:
    """Look for a job that was submitted as number 2 of array 7, if SLURM has it in `state`."""
    now = prepared(folder)
    old = {"key": now.key, "work": now.work, "asked": now.asked, **changed}
    entry = Entry(**old, label="", workflow="flow", folder=str(folder), token="token", index=2, at=0.0)
    entry.submission = job_id
    view = {} if state is None else {"7_2": State(state, comment="snakemake run token")}
    return find(now, entry, view, started=time.time() - 60)


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "COMPLETING", "SUSPENDED"])
def test_what_goes_on_is_followed(tmp_path: Path, state: str) -> None:
    assert looked_for(tmp_path, state) == Found("7_2", state)


def test_a_job_whose_id_nobody_noted_is_found_by_its_comment(tmp_path: Path) -> None:
    assert looked_for(tmp_path, "RUNNING", job_id="") == Found("7_2", "RUNNING")
    assert looked_for(tmp_path, None, job_id="") is None


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_other_work_has_to_go(tmp_path: Path, state: str) -> None:
    found = looked_for(tmp_path, state, work="old")
    assert found == Found("7_2", state, "command, parameters or inputs")


def test_other_resources_matter_only_to_a_job_that_waits(tmp_path: Path) -> None:
    assert looked_for(tmp_path, "PENDING", asked="old") == Found("7_2", "PENDING", "resources")
    assert looked_for(tmp_path, "RUNNING", asked="old") == Found("7_2", "RUNNING")


@pytest.mark.parametrize("state", [None, "COMPLETED", "FAILED", "CANCELLED"])
def test_what_ended_without_a_result_is_submitted_anew(tmp_path: Path, state: str | None) -> None:
    assert looked_for(tmp_path, state) is None


def test_what_ended_well_since_snakemake_began_is_not_done_twice(tmp_path: Path) -> None:
    result = tmp_path / "7_2_0_result.pkl"
    result.write_bytes(pickle.dumps(("success", "done")))
    assert looked_for(tmp_path, "COMPLETED") == looked_for(tmp_path, None) == Found("7_2", "ended")
    assert looked_for(tmp_path, "COMPLETED", work="old") is None
    result.write_bytes(pickle.dumps(("error", "no")))
    assert looked_for(tmp_path, "FAILED") is None


def test_what_had_ended_before_is_no_answer(tmp_path: Path) -> None:
    """Snakemake has looked at its outputs and wants the job to run: somebody may have deleted them."""
    result = tmp_path / "7_2_0_result.pkl"
    result.write_bytes(pickle.dumps(("success", "done")))
    os.utime(result, (time.time() - 3600,) * 2)
    assert looked_for(tmp_path, "COMPLETED") is None
