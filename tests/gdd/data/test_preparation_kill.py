"""A preparation that is killed with SIGKILL leaves no worker behind, and goes on where it was."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from gdd.config.records import Dataset
from gdd.data import conversion
from gdd.data.prepare import prepare

pytestmark = pytest.mark.slow

CHUNK, CHUNKS = 16, 100
IMAGES = CHUNK * CHUNKS + 7
CONVERT = f"""
import sys
from pathlib import Path
import numpy as np
from gdd.data import conversion
from gdd.data.listing import list_images
conversion.CHUNK = {CHUNK}
listing = list_images(Path(sys.argv[1]))
conversion.convert(listing, np.arange({IMAGES}), "center-crop", 16, Path(sys.argv[2]), workers=2, allowed=0)
"""


def test_killed_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        path = tmp_path / "raw" / "abc"[number % 3] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < 9:
            Image.fromarray(random.integers(0, 256, (90 + number, 80, 3), dtype=np.uint8)).save(path)
        else:
            path.symlink_to(tmp_path / "raw" / "abc"[number % 3] / f"{number % 9}.jpg")
    parts = tmp_path / "set" / "parts"

    def finished() -> int:
        return len(list(parts.glob("*/[0-9]*")))

    process = subprocess.Popen([sys.executable, "-c", CONVERT, str(tmp_path / "raw"), str(parts)])
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
    assert 4 <= done < CHUNKS

    monkeypatch.setattr(conversion, "CHUNK", CHUNK)
    record = Dataset(
        title="Many",
        source="folder",
        transform="center-crop",
        resolution=16,
        channels=3,
        images=IMAGES,
        classes=3,
    )
    with caplog.at_level(logging.INFO):
        prepare(tmp_path / "set", "many", record, tmp_path / "raw")
    assert f"Going on after {done * CHUNK:,} of {IMAGES:,} images" in caplog.text
    prepare(tmp_path / "whole", "many", record, tmp_path / "raw")
    files = {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
