from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from gdd.errors import UserError
from gdd.training.checkpoints import CheckpointStore


def payload(images: int) -> dict[str, Any]:
    weights = torch.nn.Parameter(torch.full((500,), float(images)))
    optimizer = torch.optim.Adam([weights], betas=(0.0, 0.99))
    weights.grad = torch.ones(500)
    optimizer.step()
    return {
        "images": images,
        "seconds": 1.5,
        "weights": weights.detach(),
        "optimizer": optimizer.state_dict(),
    }


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "state" / "checkpoints")


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def loaded(store: CheckpointStore) -> dict[str, Any]:
    found = store.load_latest()
    assert found is not None
    return found


def test_gives_back_what_it_was_given(store: CheckpointStore) -> None:
    assert store.load_latest() is None
    given = payload(8)
    store.save(8, given)
    found = loaded(store)
    assert torch.equal(found["weights"], given["weights"])
    assert found["seconds"] == 1.5
    moments, expected = found["optimizer"]["state"][0], given["optimizer"]["state"][0]
    assert all(torch.equal(moments[key], expected[key]) for key in expected)


def test_keeps_the_newest_two(store: CheckpointStore) -> None:
    for images in (8, 900, 1_000, 20_000):
        store.save(images, payload(images))
    assert sorted(int(path.name.split("-")[0]) for path in store.folder.iterdir()) == [1_000, 20_000]
    assert loaded(store)["images"] == 20_000


def test_a_damaged_one_gives_way_to_the_one_before(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(8, payload(8))
    newest = store.save(16, payload(16))
    damage(newest)
    assert loaded(store)["images"] == 8
    assert f"The checkpoint {newest} is damaged" in caplog.text
    # It must not push out a whole one later on, being called the newest.
    store.save(12, payload(12))
    assert sorted(int(path.name.split("-")[0]) for path in store.folder.iterdir()) == [8, 12]


def test_cut_off_is_damaged(store: CheckpointStore) -> None:
    store.save(8, payload(8))
    newest = store.save(16, payload(16))
    newest.write_bytes(newest.read_bytes()[:-100])
    assert loaded(store)["images"] == 8


def test_all_damaged_is_one_sentence(store: CheckpointStore) -> None:
    files = [store.save(images, payload(images)) for images in (8, 16)]
    for path in files:
        damage(path)
    with pytest.raises(UserError, match=r"Every checkpoint in .*checkpoints is damaged; delete the folder"):
        store.load_latest()
    assert all(path.exists() for path in files)


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
    before = sorted(store.folder.iterdir())
    with largest_file(3_000), pytest.raises(OSError) as error:
        store.save(24, payload(24))
    assert error.value.errno == errno.EFBIG
    assert "000000000024-" in error.value.filename
    assert sorted(store.folder.iterdir()) == before
    assert loaded(store)["images"] == 16


def test_a_write_that_fails_at_the_end_leaves_the_older_ones(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(8, payload(8))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("gdd.files.os.fsync", full)
        store.save(16, payload(16))
    assert len(list(store.folder.iterdir())) == 1
    assert loaded(store)["images"] == 8


def test_clear_removes_everything(store: CheckpointStore) -> None:
    store.save(8, payload(8))
    (store.folder / ".half-written").touch()
    store.clear()
    assert list(store.folder.iterdir()) == []
    assert store.load_latest() is None
