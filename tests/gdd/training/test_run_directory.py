from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from gdd.errors import UserError
from gdd.training.run_directory import RunDirectory, load_checkpoint, own_run


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_one_owner_at_a_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    owners: list[str] = []

    def own() -> None:
        with own_run(tmp_path / "run", "a"):
            owners.append("second")

    second = threading.Thread(target=own)
    with own_run(tmp_path / "run", "a"):
        second.start()
        while "is being trained by another process (see `gdd watch`); waiting for it." not in caplog.text:
            assert second.is_alive()
        owners.append("first")
    second.join()
    assert owners == ["first", "second"]


def test_a_failure_on_entering_frees_the_lock(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a folder")
    with pytest.raises(OSError), own_run(tmp_path, "a"):
        pass
    (tmp_path / "state").unlink()
    with own_run(tmp_path, "a"):
        pass


def test_temporary_files_of_the_killed_are_removed(tmp_path: Path) -> None:
    with own_run(tmp_path, "a") as run:
        leftovers = [run.state / ".progress.x1.json", run.checkpoints / ".000000000008-ab.x2.pt"]
        kept = [run.state / "log.jsonl", run.state / "snapshots" / "000000008.safetensors"]
        for path in [*leftovers, *kept]:
            path.parent.mkdir(exist_ok=True)
            path.write_text("x")
    with own_run(tmp_path, "a"):
        assert not any(path.exists() for path in leftovers)
        assert all(path.exists() for path in kept)


def test_state_of_another_recipe_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state").mkdir()  # begun, and killed at once
    with own_run(tmp_path, "a") as run:
        assert json.loads((run.state / "identity.json").read_text()) == {"fingerprint": "a"}
        run.finish()
        run.save_checkpoint(8, {"images": 8})
    with own_run(tmp_path, "a") as run:
        assert run.newest_checkpoint() is not None
    with own_run(tmp_path, "b") as run:
        assert not run.finished
        assert run.newest_checkpoint() is None
    (aside,) = tmp_path.glob("state.a.*")
    assert f"set aside as {aside}" in caplog.text
    assert len(list((aside / "checkpoints").iterdir())) == 1
    with own_run(tmp_path, "b"):
        pass
    assert len(list(tmp_path.glob("state*"))) == 2


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("state/identity.json", "[]", "identity.json holds a list instead of a dict; delete it"),
        ("state/identity.json", "{}", "identity.json does not say of which run it is; move .*state away"),
        ("state/identity.json", '{"fingerprint": "../a"}', "does not say of which run it is"),
        ("state/identity.json", "[" * 10_000, "identity.json is not valid JSON"),
        ("lock/file", "", "lock is a folder, but a lock file belongs there; remove it"),
    ],
)
def test_a_folder_that_is_none_of_a_run(tmp_path: Path, file: str, content: str, sentence: str) -> None:
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=sentence), own_run(tmp_path, "a"):
        pass


@pytest.mark.parametrize("links", [True, False])
def test_what_has_ended_is_published_as_often_as_one_likes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    files = ("run.json", "snapshots/000000008.safetensors")
    with own_run(tmp_path, "a") as run:
        for folder, text in ((run.state, "new"), (tmp_path, "old")):
            (folder / "snapshots").mkdir()
            for name in files:
                (folder / name).write_text(text)
        (tmp_path / "snapshots" / "000000004.safetensors").write_text("of another recipe")
        run.save_checkpoint(8, {"images": 8})
        run.finish()
        assert list(run.checkpoints.iterdir()) == []
        for _ in range(3):
            assert run.finished
            run.publish(["snapshots", "run.json"])
            assert [path.name for path in (tmp_path / "snapshots").iterdir()] == ["000000008.safetensors"]
            for name in files:
                assert (tmp_path / name).read_text() == "new"
                assert (tmp_path / name).samefile(run.state / name) == links
            assert hidden(tmp_path) == []
        # A workflow manager deletes declared outputs before a job; the state must not suffer.
        shutil.rmtree(tmp_path / "snapshots")
        (tmp_path / "run.json").unlink()
        run.publish(["snapshots", "run.json"])
        assert all((tmp_path / name).read_text() == "new" for name in files)


# Checkpoints


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path, "a")


def content(images: int) -> dict[str, Any]:
    return {"images": images, "weights": torch.full((500,), float(images)), "moments": [torch.ones(500)]}


def saved(run: RunDirectory) -> list[int]:
    return sorted(int(path.name.split("-")[0]) for path in run.checkpoints.iterdir())


def newest(run: RunDirectory) -> int:
    path = run.newest_checkpoint()
    assert path is not None
    return int(load_checkpoint(path)["images"])


def test_a_folder_is_no_checkpoint(run: RunDirectory) -> None:
    run.save_checkpoint(8, content(8))
    (run.checkpoints / "000000000900-0123456789abcdef.pt").mkdir()
    assert newest(run) == 8
    run.finish()
    assert run.newest_checkpoint() is None


def test_the_newest_two_are_kept(run: RunDirectory) -> None:
    assert run.newest_checkpoint() is None
    for images in (8, 900, 1_000, 20_000):
        found = load_checkpoint(run.save_checkpoint(images, content(images)))
        assert torch.equal(found["weights"], content(images)["weights"])
    assert saved(run) == [1_000, 20_000]
    assert newest(run) == 20_000


@pytest.mark.parametrize("how", ["changed", "cut off"])
def test_a_damaged_one_gives_way_to_the_one_before(
    run: RunDirectory, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    run.save_checkpoint(8, content(8))
    damaged = run.save_checkpoint(16, content(16))
    bytes_ = bytearray(damaged.read_bytes())
    bytes_[len(bytes_) // 2] ^= 1
    damaged.write_bytes(bytes_ if how == "changed" else bytes_[:-100])
    assert newest(run) == 8
    assert f"The checkpoint {damaged} is damaged; trying the one before it." in caplog.text
    # It must not push out a whole one later on, being called the newest.
    run.save_checkpoint(12, content(12))
    assert saved(run) == [8, 12]


def test_all_damaged_is_one_sentence(run: RunDirectory) -> None:
    for images in (8, 16):
        run.save_checkpoint(images, content(images)).write_bytes(b"x")
    with pytest.raises(UserError, match=r"Every checkpoint in .*checkpoints is damaged; delete the folder"):
        run.newest_checkpoint()
    assert saved(run) == [8, 16]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_older_ones(run: RunDirectory) -> None:
    for images in (8, 16):
        run.save_checkpoint(images, content(images))
    with largest_file(3_000), pytest.raises(OSError) as error:
        run.save_checkpoint(24, content(24))
    assert error.value.errno == errno.EFBIG
    assert "000000000024-" in error.value.filename
    assert saved(run) == [8, 16]
    assert newest(run) == 16


def test_a_checkpoint_is_of_the_moment_it_was_begun_and_its_failure_is_passed_on(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    save = RunDirectory.save_checkpoint

    def slowly(self: RunDirectory, images: int, content: dict[str, Any]) -> Path:
        assert goes_on.wait(10)
        return save(self, images, content)

    monkeypatch.setattr(RunDirectory, "save_checkpoint", slowly)
    weight = torch.ones(2)
    run.begin_checkpoint(8, {"weight": weight, "states": [{"step": weight}]})
    weight.zero_()  # training goes on
    assert not run.checkpoints.exists()
    goes_on.set()
    path = run.newest_checkpoint()  # waits
    assert path is not None
    assert (
        load_checkpoint(path)["weight"].tolist()
        == load_checkpoint(path)["states"][0]["step"].tolist()
        == [1, 1]
    )

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunDirectory, "save_checkpoint", full)
    for then in (run.wait, run.newest_checkpoint, lambda: run.begin_checkpoint(24, {})):
        run.begin_checkpoint(16, {})
        with pytest.raises(OSError, match="No space left"):
            then()
        run.wait()  # it is told once
    assert run.newest_checkpoint() == path
