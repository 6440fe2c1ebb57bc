"""Staging: one checked copy for all processes of a machine, or the original where that cannot be."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gdd.data import staging
from gdd.data.image_array import ImageArray, write
from gdd.data.staging import stage
from gdd.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "set", IMAGES, np.arange(20), {"name": "photos"})
    return tmp_path / "set"


def test_a_copy_is_the_array(folder: Path, tmp_path: Path) -> None:
    copy = stage(folder, tmp_path / "scratch")
    assert copy.parent == tmp_path / "scratch" / f"gdd-{os.getuid()}"
    assert copy.name == f"photos-{ImageArray.open(folder).sha256[:16]}"
    for path in (folder / name for name in staging.FILES):
        assert (copy / path.name).read_bytes() == path.read_bytes()
    assert np.array_equal(ImageArray.open(copy).images, IMAGES)
    assert sorted(path.name for path in copy.parent.iterdir()) == [f".{copy.name}.lock", copy.name]


def test_it_is_copied_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = 0
    original = shutil.copyfile

    def copyfile(*arguments: Any) -> Any:
        nonlocal copies
        copies += 1
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
    assert len(set(results)) == 1
    assert copies == 3
    write(folder, IMAGES[::-1], np.arange(20), {"name": "photos"})
    assert stage(folder, tmp_path / "scratch") not in results
    assert copies == 6


def test_without_scratch_there_is_no_copy(folder: Path) -> None:
    assert stage(str(folder), None) == folder


@pytest.mark.parametrize("missing", ["images.npy", "labels.npy", "dataset.json"])
def test_what_a_killed_copy_left_is_replaced(folder: Path, tmp_path: Path, missing: str) -> None:
    copy = stage(folder, tmp_path / "scratch")
    (copy / missing).unlink()
    (copy.parent / f".{copy.name}.part").mkdir()
    (copy.parent / f".{copy.name}.part" / "images.npy").touch()
    assert stage(folder, tmp_path / "scratch") == copy
    assert np.array_equal(ImageArray.open(copy).images, IMAGES)
    assert not (copy.parent / f".{copy.name}.part").exists()


def test_a_copy_that_differs_is_refused(folder: Path, tmp_path: Path) -> None:
    content = bytearray((folder / "images.npy").read_bytes())
    content[-1] ^= 1
    (folder / "images.npy").write_bytes(content)
    with pytest.raises(UserError, match="the hashes differ"):
        stage(folder, tmp_path / "scratch")
    assert [path.suffix for path in (tmp_path / "scratch").glob("gdd-*/.*")] == [".lock"]
    assert not list((tmp_path / "scratch").glob("gdd-*/photos*"))


def test_a_disk_without_room_is_no_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: usage._replace(free=100))
    with caplog.at_level(logging.WARNING):
        assert stage(folder, tmp_path / "scratch") == folder
    assert "is not staged to" in caplog.text
    assert "No space left on device" in caplog.text


def test_a_place_one_may_not_write_to_is_no_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert stage(folder, tmp_path / "scratch") == folder
    assert "Permission denied" in caplog.text


def test_a_missing_data_set_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(UserError, match=r"dataset\.json does not exist"):
        stage(tmp_path / "set", tmp_path / "scratch")
    (tmp_path / "set" / "dataset.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(UserError, match="cannot be read"):
        stage(tmp_path / "set", tmp_path / "scratch")
