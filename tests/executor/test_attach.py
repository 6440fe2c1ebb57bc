"""What an earlier Snakemake submitted: followed, ended or forgotten."""

from __future__ import annotations

import os
import pickle
import time
from dataclasses import replace
from pathlib import Path

import pytest
from plugin_doubles import prepared

from snakemake_executor_plugin_submitit.attach import Attachment, find
from snakemake_executor_plugin_submitit.batch import Prepared
from snakemake_executor_plugin_submitit.queue import Seen
from snakemake_executor_plugin_submitit.registry import Entry


def looked_for(folder: Path, state: str | None, *, job_id: str | None = "7", **changed: str) -> Attachment:
    """Look for a job that was submitted as number 2 of array 7, if SLURM has it in `state`."""
    now: Prepared = prepared(folder)
    entry = Entry(now.print._replace(**changed), "token", 2, folder, job_id)
    view = {} if state is None else {"7_2": Seen(state, comment="snakemake run token")}
    return find(now, entry, view, started=time.time() - 60)


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "COMPLETING", "SUSPENDED"])
def test_what_goes_on_is_followed(tmp_path: Path, state: str) -> None:
    assert looked_for(tmp_path, state) == Attachment("7_2", state, same=True)


def test_a_job_whose_id_nobody_noted_is_found_by_its_comment(tmp_path: Path) -> None:
    assert looked_for(tmp_path, "RUNNING", job_id=None) == Attachment("7_2", "RUNNING", same=True)
    assert looked_for(tmp_path, None, job_id=None) == Attachment()


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_other_work_has_to_go(tmp_path: Path, state: str) -> None:
    found = looked_for(tmp_path, state, work="old")
    assert (found.job_id, found.same) == ("7_2", False)
    assert "command" in found.difference


def test_other_resources_matter_only_to_a_job_that_waits(tmp_path: Path) -> None:
    assert not looked_for(tmp_path, "PENDING", request="old").same
    assert looked_for(tmp_path, "RUNNING", request="old").same


@pytest.mark.parametrize("state", [None, "COMPLETED", "FAILED", "CANCELLED"])
def test_what_ended_without_a_result_is_submitted_anew(tmp_path: Path, state: str | None) -> None:
    assert looked_for(tmp_path, state) == Attachment()


def test_what_ended_well_since_snakemake_began_is_not_done_twice(tmp_path: Path) -> None:
    result = tmp_path / "7_2_0_result.pkl"
    result.write_bytes(pickle.dumps(("success", "done")))
    assert looked_for(tmp_path, "COMPLETED").same
    assert looked_for(tmp_path, None).same
    assert looked_for(tmp_path, "COMPLETED", work="old") == Attachment()
    result.write_bytes(pickle.dumps(("error", "no")))
    assert looked_for(tmp_path, "FAILED") == Attachment()


def test_what_had_ended_before_is_no_answer(tmp_path: Path) -> None:
    """Snakemake has looked at its outputs and wants the job to run: somebody may have deleted them."""
    result = tmp_path / "7_2_0_result.pkl"
    result.write_bytes(pickle.dumps(("success", "done")))
    os.utime(result, (time.time() - 3600,) * 2)
    assert looked_for(tmp_path, "COMPLETED") == Attachment()


def test_the_one_that_takes_its_place_waits_for_its_end(tmp_path: Path) -> None:
    before = prepared(tmp_path)
    after = before.after("7_2")
    assert after.request.parameters["dependency"] == "afterany:7_2"
    assert after.request.key != before.request.key  # so it shares no array with others
    assert replace(after, request=before.request) == before
