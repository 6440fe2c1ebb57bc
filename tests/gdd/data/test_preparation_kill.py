"""A preparation that is killed with SIGKILL, workers and all, goes on where it was."""

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
from gdd.data.conversion import CHUNK

pytestmark = pytest.mark.slow

IMAGES = 20 * CHUNK + 77


def command(folder: Path, source: Path, workers: int) -> list[str]:
    record = Dataset(
        title="Many",
        source="folder",
        transform="center-crop",
        resolution=16,
        channels=3,
        images=IMAGES,
        classes=3,
    )
    arguments = [str(folder), "--name", "many", "--record", record.canonical(), "--raw", str(source)]
    return [sys.executable, "-m", "gdd.cli", "dataset", *arguments, "--workers", str(workers)]


def test_killed_and_started_again(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    distinct = []
    for number in range(50):
        path = tmp_path / f"{number}.jpg"
        noise = random.integers(0, 256, (150 + number, 180, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        distinct.append(path)
    for folder in "abc":
        (tmp_path / "raw" / folder).mkdir(parents=True)
    for number in range(IMAGES):
        (tmp_path / "raw" / "abc"[number % 3] / f"{number}.jpg").symlink_to(distinct[number % 50])

    subprocess.run(command(tmp_path / "whole", tmp_path / "raw", 2), check=True, capture_output=True)
    journal = tmp_path / "set" / "images.npy.journal"
    finished = 0
    for goal in (4, 11):
        process = subprocess.Popen(
            command(tmp_path / "set", tmp_path / "raw", 2), stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 120
        while not journal.exists() or len(journal.read_text().splitlines()) - 1 < goal:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        _, messages = process.communicate()
        assert f"Going on after {finished * CHUNK:,} of {IMAGES:,}" in messages or not finished
        finished = len(journal.read_text().splitlines()) - 1
        assert goal <= finished < 20
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert not alive  # nobody is left to wait for work
        assert not (tmp_path / "set" / "dataset.json").exists()

    last = subprocess.run(
        command(tmp_path / "set", tmp_path / "raw", 2), check=True, capture_output=True, text=True
    )
    assert re.search(f"Going on after {finished * CHUNK:,} of {IMAGES:,} images", last.stderr)
    for name in ("images.npy", "labels.npy", "dataset.json"):
        assert (tmp_path / "set" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(list((tmp_path / "set").iterdir())) == 4
