from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from gdd.errors import UserError
from gdd.training.run_directory import CheckpointStore, RunDirectory, load_checkpoint


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


def own(folder: Path, fingerprint: str = "a") -> RunDirectory:
    return RunDirectory(folder, fingerprint, patience=0)


def test_one_owner_at_a_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sentence = r"run is being trained by another process \(see `gdd watch`\); end that one first\.$"
    with own(tmp_path / "run"), pytest.raises(UserError, match=sentence):
        RunDirectory(tmp_path / "run", "a", patience=0.01).__enter__()
    assert "is being trained by another process; waiting for it." in caplog.text
    with own(tmp_path / "run"):  # free again
        pass


def test_a_failure_on_entering_frees_the_lock(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a folder")
    with pytest.raises(OSError):
        own(tmp_path).__enter__()
    (tmp_path / "state").unlink()
    with own(tmp_path):
        pass


def test_temporary_files_of_the_killed_are_removed(tmp_path: Path) -> None:
    with own(tmp_path) as run:
        leftovers = [
            run.state / ".progress.x1.json",
            run.state / "checkpoints" / ".000000000008-ab.x2.pt",
            run.state / "snapshots" / ".000000008.x3.safetensors",
        ]
        kept = [run.state / "log.jsonl", run.state / "snapshots" / "000000008.safetensors"]
        for path in [*leftovers, *kept]:
            path.parent.mkdir(exist_ok=True)
            path.write_text("x")
    with own(tmp_path):
        assert not any(path.exists() for path in leftovers)
        assert all(path.exists() for path in kept)


def test_state_of_another_recipe_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with own(tmp_path, "a") as run:
        run.finish()
        run.checkpoints.save(8, {"images": 8})
    with own(tmp_path, "a") as run:
        assert run.checkpoints.newest() is not None
    with own(tmp_path, "b") as run:
        assert not run.finished
        assert run.checkpoints.newest() is None
    (aside,) = tmp_path.glob("state.a.*")
    assert f"set aside as {aside}" in caplog.text
    assert len(list((aside / "checkpoints").iterdir())) == 1
    with own(tmp_path, "b"):
        pass
    assert len(list(tmp_path.glob("state*"))) == 2


def test_a_state_without_identity_was_begun_and_is_taken(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()  # killed between this and the next file
    with own(tmp_path) as run:
        assert json.loads((run.state / "identity.json").read_text()) == {"fingerprint": "a"}


def write_results(run: RunDirectory, text: str) -> None:
    (run.state / "snapshots").mkdir(exist_ok=True)
    (run.state / "snapshots" / "000000008.safetensors").write_text(text)
    (run.state / "run.json").write_text(text)


def test_finishing_keeps_the_results_and_drops_the_checkpoints(tmp_path: Path) -> None:
    with own(tmp_path) as run:
        write_results(run, "weights")
        run.checkpoints.save(8, {"images": 8})
        (run.checkpoints.folder / ".half-written").touch()
        assert not run.finished
        run.finish()
        assert run.finished
        assert list(run.checkpoints.folder.iterdir()) == []
        assert (run.state / "run.json").exists()


@pytest.mark.parametrize("links", [True, False])
def test_publishing_replaces_what_stands_there_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    with own(tmp_path) as run:
        write_results(run, "new")
        (tmp_path / "snapshots").mkdir()
        (tmp_path / "snapshots" / "000000004.safetensors").write_text("of another recipe")
        (tmp_path / "run.json").write_text("old")
        for _ in range(3):
            run.publish(["snapshots", "run.json"])
            assert [path.name for path in (tmp_path / "snapshots").iterdir()] == ["000000008.safetensors"]
            for name in ("run.json", "snapshots/000000008.safetensors"):
                assert (tmp_path / name).read_text() == "new"
                assert (tmp_path / name).samefile(run.state / name) == links
            assert hidden(tmp_path) == []
        # A workflow manager deletes declared outputs before a job; the state must not suffer.
        shutil.rmtree(tmp_path / "snapshots")
        (tmp_path / "run.json").unlink()
        run.publish(["snapshots", "run.json"])
        assert (tmp_path / "snapshots" / "000000008.safetensors").read_text() == "new"


# Checkpoints


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "state" / "checkpoints")


def payload(images: int) -> dict[str, Any]:
    weights = torch.nn.Parameter(torch.full((500,), float(images)))
    optimizer = torch.optim.Adam([weights], betas=(0.0, 0.99))
    weights.grad = torch.ones(500)
    optimizer.step()
    return {"images": images, "weights": weights.detach(), "optimizer": optimizer.state_dict()}


def saved(store: CheckpointStore) -> list[int]:
    return sorted(int(path.name.split("-")[0]) for path in store.folder.iterdir())


def newest(store: CheckpointStore) -> int:
    path = store.newest()
    assert path is not None
    return int(load_checkpoint(path)["images"])


def test_a_checkpoint_gives_back_what_it_was_given(store: CheckpointStore) -> None:
    assert store.newest() is None
    given = payload(8)
    found = load_checkpoint(store.save(8, given))
    assert torch.equal(found["weights"], given["weights"])
    moments, expected = found["optimizer"]["state"][0], given["optimizer"]["state"][0]
    assert all(torch.equal(moments[key], expected[key]) for key in expected)


def test_the_newest_two_are_kept(store: CheckpointStore) -> None:
    for images in (8, 900, 1_000, 20_000):
        store.save(images, payload(images))
    assert saved(store) == [1_000, 20_000]
    assert newest(store) == 20_000


@pytest.mark.parametrize("how", ["changed", "cut off"])
def test_a_damaged_one_gives_way_to_the_one_before(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    store.save(8, payload(8))
    damaged = store.save(16, payload(16))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content if how == "changed" else content[:-100])
    assert newest(store) == 8
    assert f"The checkpoint {damaged} is damaged; trying the one before it." in caplog.text
    # It must not push out a whole one later on, being called the newest.
    store.save(12, payload(12))
    assert saved(store) == [8, 12]


def test_all_damaged_is_one_sentence(store: CheckpointStore) -> None:
    for images in (8, 16):
        store.save(images, payload(images)).write_bytes(b"x")
    with pytest.raises(UserError, match=r"Every checkpoint in .*checkpoints is damaged; delete the folder"):
        store.newest()
    assert saved(store) == [8, 16]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_older_ones(store: CheckpointStore) -> None:
    for images in (8, 16):
        store.save(images, payload(images))
    with largest_file(3_000), pytest.raises(OSError) as error:
        store.save(24, payload(24))
    assert error.value.errno == errno.EFBIG
    assert "000000000024-" in error.value.filename
    assert saved(store) == [8, 16]
    assert newest(store) == 16
