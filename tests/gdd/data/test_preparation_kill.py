"""A preparation that is killed with SIGKILL leaves no worker behind, and goes on where it was."""

from __future__ import annotations

import re
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
from gdd.data.prepare import prepare

pytestmark = pytest.mark.slow

CHUNK, CHUNKS = 32, 24
IMAGES = CHUNK * CHUNKS + 7
RECORD = Dataset(
    title="Many",
    source="folder",
    transform="center-crop",
    resolution=16,
    channels=3,
    images=IMAGES,
    classes=3,
)
PREPARE = f"""
import logging, sys
from pathlib import Path
from gdd.config.records import Dataset
from gdd.data import conversion
from gdd.data.prepare import prepare
logging.basicConfig(level=logging.INFO)
conversion.CHUNK = {CHUNK}
record = Dataset.model_validate_json(sys.argv[1])
prepare(Path(sys.argv[2]), "many", record, Path(sys.argv[3]), workers=2)
"""


def test_killed_and_started_again(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        path = tmp_path / "raw" / "abc"[number % 3] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < 9:
            noise = random.integers(0, 256, (300 + number, 320, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
        else:
            path.symlink_to(tmp_path / "raw" / "abc"[number % 3] / f"{number % 9}.jpg")
    arguments = [RECORD.canonical(), str(tmp_path / "set"), str(tmp_path / "raw")]
    command = [sys.executable, "-c", PREPARE, *arguments]

    def finished() -> int:
        return len(list((tmp_path / "set").glob("parts/*/[0-9]*")))

    process = subprocess.Popen(command)
    deadline = time.monotonic() + 120
    while finished() < 4:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive  # nobody is left to wait for work
    done = finished()
    assert 4 <= done < CHUNKS
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["parts"]

    last = subprocess.run(command, check=True, capture_output=True, text=True)
    assert re.search(f"Going on after {done * CHUNK} of {IMAGES} images", last.stderr)
    prepare(tmp_path / "whole", "many", RECORD, tmp_path / "raw")
    files = {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
