"""A workflow that is killed between two snapshots of a run goes on to the same bits."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from typing import Any

import pytest
from tiny_project import kill, logged

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

RUN = "runs/digits/gdd/seed0"
TARGET = f"results/{RUN}/run.json"


def test_unlocking_and_rerunning_changes_no_bit(demo: Any, made: Any) -> None:
    whole, killed = (one.folder / "results" / RUN for one in (demo, made))
    shutil.rmtree(killed)
    process = subprocess.Popen(
        made.command("--cores", "1", TARGET),
        env=made.environment,
        cwd=made.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    state = killed / "state"
    try:
        # After the first of two snapshots and its checkpoint, before the second.
        while not (logged(state / "log.jsonl")[-1:] >= [160] and any(state.glob("checkpoints/*.pt"))):
            assert process.poll() is None
            time.sleep(0.002)
    finally:
        kill(process)
    assert [path.stem for path in (state / "snapshots").glob("[0-9]*")] == ["000000128"]
    assert not (killed / "run.json").exists()

    made.snakemake("--unlock")
    made.snakemake("--cores", "1", "--rerun-incomplete", TARGET)
    for kind in ("snapshots/*.safetensors", "samples/*.npz"):
        files = made.results(f"{RUN}/{kind}")
        assert len(files) == 2
        assert files == demo.results(f"{RUN}/{kind}")
    counts = [logged(folder / "log.jsonl") for folder in (whole, killed)]
    assert counts[0] == counts[1] == list(range(32, 257, 32))
    assert len(json.loads((killed / "run.json").read_text())["sessions"]) == 2  # it went on, not anew
    assert made.planned(TARGET) == set()
