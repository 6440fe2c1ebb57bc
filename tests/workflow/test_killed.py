"""A workflow that is killed between two snapshots of a run goes on to the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

RUN = "runs/digits/gdd/seed0"
TARGET = f"results/{RUN}/run.json"


def last_line(log: Path) -> int:
    lines = [line for line in log.read_text().splitlines() if line.endswith("}")] if log.exists() else []
    return int(json.loads(lines[-1])["images"]) if lines else 0


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_unlocking_and_rerunning_changes_no_bit(demo: Any, project: Any) -> None:
    # Everything the run needs is there, with the times and records that Snakemake goes by.
    for name in ("results", ".snakemake", "config"):
        shutil.copytree(demo.folder / name, project.folder / name, dirs_exist_ok=True)
    whole, killed = (one.folder / "results" / RUN for one in (demo, project))
    shutil.rmtree(killed)

    process = subprocess.Popen(
        project.command("--cores", "1", TARGET),
        env=project.environment,
        cwd=project.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    state = killed / "state"
    try:
        # After the first of two snapshots and its checkpoint, before the second.
        while not (last_line(state / "log.jsonl") >= 160 and any(state.glob("checkpoints/*.pt"))):
            assert process.poll() is None
            time.sleep(0.002)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    trainer = json.loads((state / "progress.json").read_text())["pid"]
    deadline = time.monotonic() + 10
    while alive(trainer):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [path.stem for path in (state / "snapshots").glob("[0-9]*")] == ["000000128"]
    assert not (killed / "run.json").exists()

    project.snakemake("--unlock")
    project.snakemake("--cores", "1", "--rerun-incomplete", TARGET)
    for kind in ("snapshots/*.safetensors", "samples/*.npz"):
        files = project.results(f"{RUN}/{kind}")
        assert len(files) == 2
        assert files == demo.results(f"{RUN}/{kind}")
    counts = [
        [json.loads(line)["images"] for line in (folder / "log.jsonl").open()] for folder in (whole, killed)
    ]
    assert counts[0] == counts[1] == list(range(32, 257, 32))
    assert len(json.loads((killed / "run.json").read_text())["sessions"]) == 2  # it went on, not anew
    assert project.planned(TARGET) == set()
