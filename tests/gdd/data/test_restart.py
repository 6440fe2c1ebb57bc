"""A preparation of images that was stopped in the middle, or that somebody else is at."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from photographs import bytes_of, record

from gdd.config.records import Dataset
from gdd.data import conversion
from gdd.data.listing import list_images
from gdd.data.prepare import prepare
from gdd.errors import UserError
from gdd.files import locked

pytestmark = pytest.mark.usefixtures("small_chunks")


class Killed(BaseException):
    pass


def killed_after(chunks: int, folder: Path, source: Path, wanted: Dataset) -> None:
    """Leave what a preparation leaves that was killed."""
    original, done = conversion.convert_chunk, 0

    def convert_chunk(*arguments: Any, **options: Any) -> dict[str, str]:
        nonlocal done
        done += 1
        if done > chunks:
            raise Killed
        return original(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(conversion, "convert_chunk", convert_chunk)
        prepare(folder, "photos", wanted, source)
    assert [path.name for path in folder.iterdir()] == ["parts"]


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ("nothing", 8),
        ("a chunk is cut off", 4),
        ("another resolution", 0),
        ("another transform", 0),
        ("other files", 0),
    ],
)
def test_what_was_left_is_taken_up_only_if_it_fits(
    change: str, kept: int, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, wanted = tmp_path / "set", record()
    left = {"another resolution": {"resolution": 4}, "another transform": {"transform": "resize"}}
    killed_after(2, folder, source, record(**left.get(change, {})))
    if change == "a chunk is cut off":
        chunk = min(folder.glob("parts/*/*"))
        os.truncate(chunk, chunk.stat().st_size - 1)
    elif change == "other files":
        old = min((source / "a").glob("[Ii]mage*"))
        old.rename(old.with_stem("Imagine"))
    prepare(tmp_path / "whole", "photos", wanted, source)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        prepare(folder, "photos", wanted, source)
    assert caplog.text.count("Going on") == bool(kept)
    assert (f"Going on after {kept} of 19 images." in caplog.text) == bool(kept)
    assert bytes_of(folder) == bytes_of(tmp_path / "whole")


def test_only_one_process_at_a_time(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with locked(folder / "parts" / ".lock"), pytest.raises(UserError, match="by another process; let it end"):
        prepare(folder, "photos", record(), source)
    assert len(prepare(folder, "photos", record(), source)) == 19


def die(*_: Any) -> dict[str, str]:
    os._exit(9)


@pytest.mark.slow  # processes
def test_a_worker_that_dies_is_one_sentence(source: Path) -> None:
    with pytest.raises(UserError, match="was killed, perhaps for want of memory; the same command goes on"):
        list(conversion._converted(die, {source: list_images(source)}, 2))


MANY, SMALL = 1607, 16
CONVERT = f"""
import sys
from pathlib import Path
from gdd.data import conversion, listing
conversion.CHUNK = {SMALL}
images = listing.list_images(Path(sys.argv[1]))
conversion.convert(images, "center-crop", 8, Path(sys.argv[2]), workers=2)
"""


@pytest.mark.slow  # processes
def test_after_sigkill_no_worker_stays_and_the_next_call_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    raw, parts = tmp_path / "raw", tmp_path / "set" / "parts"
    images = sorted(source.glob("?/[iI]mage*"))
    for number in range(MANY):
        path = raw / "abc"[number % 3] / f"{number}{images[number % 19].suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(images[number % 19])

    def finished() -> int:
        return len(list(parts.glob("*/[0-9]*")))

    process = subprocess.Popen([sys.executable, "-c", CONVERT, str(raw), str(parts)])
    deadline = time.monotonic() + 120
    while finished() < 4:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert len(workers) >= 2
    assert not alive  # nobody is left to wait for work
    done = finished()
    assert 4 <= done < MANY // SMALL

    monkeypatch.setattr(conversion, "CHUNK", SMALL)
    wanted = record(images=MANY)
    with caplog.at_level(logging.INFO):
        prepare(tmp_path / "set", "many", wanted, raw)
    assert f"Going on after {done * SMALL:,} of {MANY:,} images" in caplog.text
    prepare(tmp_path / "whole", "many", wanted, raw)
    assert bytes_of(tmp_path / "set") == bytes_of(tmp_path / "whole")
