"""Whether a job that was started again got any further."""

from __future__ import annotations

import os
from pathlib import Path

from snakemake_executor_plugin_submitit.progress import Restarts, mark


def test_a_new_checkpoint_is_progress(tmp_path: Path) -> None:
    nothing = mark(str(tmp_path))
    (tmp_path / "step100").write_text("weights")
    first = mark(str(tmp_path))
    (tmp_path / "step100").rename(tmp_path / "step200")
    assert len({nothing, first, mark(str(tmp_path))}) == 3


def test_a_checkpoint_written_again_is_none(tmp_path: Path) -> None:
    file = tmp_path / "step100"
    file.write_text("weights")
    before = mark(str(tmp_path))
    file.write_text("weights")
    os.utime(file, (1, 1))
    assert mark(str(tmp_path)) == before


def test_a_files_content_counts(tmp_path: Path) -> None:
    file = tmp_path / "images"
    assert mark(str(file)) == ""
    file.write_text("64")
    before = mark(str(file))
    file.write_text("96")
    assert mark(str(file)) != before


def test_starts_without_progress_are_counted_in_a_row(tmp_path: Path) -> None:
    stalled = []
    for state in ("", "", "a", "a", "a", "b"):
        restarts = Restarts.read(tmp_path / "restarts.json")
        restarts.start(state)
        restarts.write(tmp_path / "restarts.json")
        stalled.append(restarts.stalled)
    assert stalled == [0, 1, 0, 1, 2, 0]
    assert Restarts.read(tmp_path / "restarts.json").starts == 6


def test_a_note_that_cannot_be_read_is_a_first_start(tmp_path: Path) -> None:
    (tmp_path / "restarts.json").write_text("{")
    assert Restarts.read(tmp_path / "restarts.json").starts == 0


def test_why_a_job_asked_for_another_start_is_forgotten_by_that_start() -> None:
    restarts = Restarts(requeued="the time limit is near")
    restarts.start("")
    assert not restarts.requeued
