from __future__ import annotations

import json
import logging
import multiprocessing
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gdd.errors import UserError
from gdd.training.run_directory import RunDirectory


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run", "a"):
        second = RunDirectory(tmp_path / "run", "a", patience=0)
        with pytest.raises(UserError, match=rf"being trained by process {os.getpid()} on .*; end it first\."):
            second.__enter__()
    with second:  # free again
        pass


def test_waits_for_an_earlier_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = RunDirectory(tmp_path / "run", "a")
    first.__enter__()
    timer = threading.Timer(0.2, first.__exit__, (None, None, None))
    began = time.monotonic()
    timer.start()
    with RunDirectory(tmp_path / "run", "a", patience=30):
        assert 0.15 < time.monotonic() - began < 10
    timer.join()
    assert caplog.text.count("waiting for it") == 1


def own_and_sleep(folder: Path, owned: Any) -> None:
    with RunDirectory(folder, "a"):
        owned.set()
        time.sleep(60)


def test_the_lock_dies_with_its_owner(tmp_path: Path) -> None:
    forking = multiprocessing.get_context("fork")
    owned = forking.Event()
    owner = forking.Process(target=own_and_sleep, args=(tmp_path, owned))
    owner.start()
    assert owned.wait(30)
    with pytest.raises(UserError, match=f"process {owner.pid}"):
        RunDirectory(tmp_path, "a", patience=0).__enter__()
    owner.kill()
    owner.join()
    with RunDirectory(tmp_path, "a", patience=0):
        pass


def test_temporary_files_of_the_killed_are_removed(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, "a") as run:
        leftovers = [
            run.state / ".progress.x1.json",
            run.state / "checkpoints" / ".000000000008-ab.x2.pt",
            run.state / "snapshots" / ".000000008.x3.safetensors",
        ]
        kept = [run.state / "log.jsonl", run.state / "snapshots" / "000000008.safetensors"]
        for path in [*leftovers, *kept]:
            path.parent.mkdir(exist_ok=True)
            path.write_text("x")
    with RunDirectory(tmp_path, "a"):
        assert not any(path.exists() for path in leftovers)
        assert all(path.exists() for path in kept)


def test_the_same_recipe_keeps_its_state(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, "a") as run:
        run.checkpoints.save(8, {"images": 8})
    with RunDirectory(tmp_path, "a") as run:
        assert run.checkpoints.load_latest() == {"images": 8}


def test_state_of_another_recipe_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with RunDirectory(tmp_path, "a") as run:
        run.checkpoints.save(8, {"images": 8})
        run.finish()
        run.checkpoints.save(8, {"images": 8})
    with RunDirectory(tmp_path, "b") as run:
        assert not run.finished
        assert run.checkpoints.load_latest() is None
    (aside,) = tmp_path.glob("state.a.*")
    assert f"set aside as {aside}" in caplog.text
    assert len(list((aside / "checkpoints").iterdir())) == 1
    with RunDirectory(tmp_path, "b", patience=0):
        pass
    assert len(list(tmp_path.glob("state*"))) == 2


def test_a_state_without_identity_was_begun_and_is_taken(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()  # killed between this and the next file
    with RunDirectory(tmp_path, "a") as run:
        assert json.loads((run.state / "identity.json").read_text()) == {"fingerprint": "a"}


def test_a_failure_on_entering_frees_the_lock(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a folder")
    with pytest.raises(OSError):
        RunDirectory(tmp_path, "a").__enter__()
    (tmp_path / "state").unlink()
    with RunDirectory(tmp_path, "a", patience=0):
        pass


def write_results(run: RunDirectory, text: str) -> None:
    (run.state / "snapshots").mkdir(exist_ok=True)
    (run.state / "snapshots" / "000000008.safetensors").write_text(text)
    (run.state / "run.json").write_text(text)


def test_finishing_keeps_the_results_and_drops_the_checkpoints(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, "a") as run:
        write_results(run, "weights")
        run.checkpoints.save(8, {"images": 8})
        assert not run.finished
        run.finish()
        assert run.finished
        assert run.checkpoints.load_latest() is None
        assert (run.state / "run.json").exists()


def test_publishing_links_and_can_be_repeated(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, "a") as run:
        write_results(run, "weights")
        for _ in range(3):
            run.publish(["snapshots", "run.json"])
            for name in ("run.json", "snapshots/000000008.safetensors"):
                assert (tmp_path / name).samefile(run.state / name)
            assert hidden(tmp_path) == []


def test_publishing_replaces_what_stands_there(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, "a") as run:
        write_results(run, "new")
        (tmp_path / "snapshots").mkdir()
        (tmp_path / "snapshots" / "000000004.safetensors").write_text("of another recipe")
        (tmp_path / "run.json").write_text("old")
        run.publish(["snapshots", "run.json"])
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == ["000000008.safetensors"]
    assert (tmp_path / "run.json").read_text() == "new"


def test_publishing_again_after_the_published_was_deleted(tmp_path: Path) -> None:
    """A workflow manager deletes declared outputs before a job; the state must not suffer."""
    with RunDirectory(tmp_path, "a") as run:
        write_results(run, "weights")
        run.publish(["snapshots", "run.json"])
        (tmp_path / "snapshots" / "000000008.safetensors").unlink()
        (tmp_path / "snapshots").rmdir()
        (tmp_path / "run.json").unlink()
        run.publish(["snapshots", "run.json"])
    assert (tmp_path / "snapshots" / "000000008.safetensors").read_text() == "weights"
    assert (tmp_path / "run.json").read_text() == "weights"


def test_copies_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    caplog.set_level(logging.WARNING)
    with RunDirectory(tmp_path, "a") as run:
        write_results(run, "weights")
        run.publish(["snapshots", "run.json"])
        assert not (tmp_path / "run.json").samefile(run.state / "run.json")
    assert (tmp_path / "run.json").read_text() == "weights"
    assert hidden(tmp_path) == []
