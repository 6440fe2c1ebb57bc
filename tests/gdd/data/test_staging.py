"""Staging: one checked copy for all processes of a machine, or the original where that cannot be."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gdd.data.image_array import ImageArray, write
from gdd.data.staging import FILES, stage
from gdd.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "set", IMAGES, np.arange(20), {"name": "photos"})
    return tmp_path / "set"


def test_it_is_copied_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = []
    original = shutil.copyfile

    def copyfile(*arguments: Any) -> Any:
        copied.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    results: list[Path] = []
    threads = [
        threading.Thread(target=lambda: results.append(stage(folder, tmp_path / "scratch"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (copy,) = set(results)
    assert len(copied) == 3
    assert copy.parent == tmp_path / "scratch" / f"gdd-{os.getuid()}"
    assert copy.name == f"photos-{ImageArray.open(folder).sha256[:16]}"
    for name in FILES:
        assert (copy / name).read_bytes() == (folder / name).read_bytes()
    assert sorted(path.name for path in copy.parent.iterdir()) == [f".{copy.name}.lock", copy.name]
    write(folder, IMAGES[::-1], np.arange(20), {"name": "photos"})
    assert stage(folder, tmp_path / "scratch") != copy
    assert len(copied) == 6


def test_without_scratch_there_is_no_copy(folder: Path) -> None:
    assert stage(str(folder), None) == folder


@pytest.mark.parametrize("missing", FILES)
def test_what_a_killed_copy_left_is_replaced(folder: Path, tmp_path: Path, missing: str) -> None:
    copy = stage(folder, tmp_path / "scratch")
    (copy / missing).unlink()
    (copy.parent / f".{copy.name}.part").mkdir()
    (copy.parent / f".{copy.name}.part" / "images.npy").touch()
    assert stage(folder, tmp_path / "scratch") == copy
    assert np.array_equal(ImageArray.open(copy).images, IMAGES)
    assert not (copy.parent / f".{copy.name}.part").exists()


@pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
def test_a_copy_that_differs_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match="the hashes differ"):
        stage(folder, tmp_path / "scratch")
    assert [path.suffix for path in (tmp_path / "scratch").glob("gdd-*/.*")] == [".lock"]
    assert not list((tmp_path / "scratch").glob("gdd-*/photos*"))


@pytest.mark.parametrize("what", ["copyfile", "mkdir"])
def test_a_place_without_room_or_permission_is_no_error(
    what: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path if what == "mkdir" else shutil, what, refuse)
    with caplog.at_level(logging.WARNING):
        assert stage(folder, tmp_path / "scratch") == folder
    assert "is not staged to" in caplog.text
    assert "No space left on device" in caplog.text
    assert not list(tmp_path.glob("scratch/*/.*part"))


def test_a_missing_data_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.json does not exist"):
        stage(tmp_path, tmp_path / "scratch")
