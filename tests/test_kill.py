"""Training that is killed at any moment, even while it writes a checkpoint, ends with the same bits."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_project import (
    BATCH,
    STEPS,
    TRAININGS,
    command,
    copy_project,
    half_written,
    has_begun,
    kill,
    logged,
    make_project,
    results,
    signal_all,
)

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("GDD_KILLS", "2"))  # 34 makes 51 of distillation
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("project") / "p")


def words(stage: str) -> list[str]:
    stage, _, two_processes = stage.partition(" in ")
    python, *rest = command(stage)
    return [python, *(TORCHRUN if two_processes else []), *rest]


def start(stage: str, project: Path) -> subprocess.Popen[bytes]:
    with (project / "errors").open("ab") as errors:
        return subprocess.Popen(words(stage), cwd=project, stderr=errors)


def finish(stage: str, project: Path) -> None:
    done = subprocess.run(words(stage), cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def folder_of(stage: str, project: Path) -> Path:
    return project / TRAININGS[stage.partition(" in ")[0]][1]


def kill_in_training(
    stage: str, project: Path, target: int, in_a_write: bool, delay: float
) -> dict[str, Any]:
    """Start the stage and kill it once it has seen `target` images: in its next write, or after a delay."""
    began, folder = time.time(), folder_of(stage, project)
    process = start(stage, project)
    log = folder / "state" / "log.jsonl"
    try:
        while not (has_begun(folder, began) and logged(log)[-1:] >= [target]):
            assert process.poll() is None, (project / "errors").read_text()
            time.sleep(0.005)
        if in_a_write:
            stop_in_a_write(process, folder)
        else:
            time.sleep(delay)
        assert process.poll() is None, "it ended before it could be killed"
    finally:
        kill(process)
    return {"images": logged(log)[-1], "while writing": bool(half_written(folder))}


def stop_in_a_write(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Stop all processes at a moment when a checkpoint is there in part; a write that ended first does not count."""
    while process.poll() is None:
        if half_written(folder):
            signal_all(process, signal.SIGSTOP)
            if half_written(folder):
                return
            signal_all(process, signal.SIGCONT)


@pytest.mark.parametrize(
    ("stage", "count"),
    [
        ("teacher", KILLS // 2),
        ("distill", KILLS),
        pytest.param("distill in two processes", KILLS // 2, marks=pytest.mark.thorough),
    ],
)
def test_kills_change_no_bit(
    stage: str, count: int, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed, disturbed = (copy_project(project, tmp_path / name) for name in ("whole", "killed"))
    whole, killed = folder_of(stage, undisturbed), folder_of(stage, disturbed)
    finish(stage, undisturbed)

    rng = random.Random(f"{stage} 1")
    # Strictly rising, so that every process has to get further than the one before.
    targets = sorted(rng.sample(range(BATCH, (STEPS - 6) * BATCH, BATCH), count))
    kills: list[dict[str, Any]] = []
    for number, target in enumerate(targets):
        kills.append(kill_in_training(stage, disturbed, target, number % 2 == 0, rng.uniform(0, 0.2)))
        assert not (killed / "log.jsonl").exists()  # nothing is published before the end
    with capsys.disabled():
        where = ", ".join(f"{done['images']}{' (writing)' * done['while writing']}" for done in kills)
        print(f"\n{stage}: killed at {where} of {STEPS * BATCH} images")
    assert all(done["while writing"] for done in kills[::2])

    finish(stage, disturbed)
    assert len(results(whole)) == (1 if stage == "teacher" else 8)
    assert results(killed) == results(whole)
    assert (
        logged(killed / "log.jsonl")
        == logged(whole / "log.jsonl")
        == list(range(BATCH, STEPS * BATCH + 1, BATCH))
    )
    assert not [path for path in killed.rglob("*") if path.name.startswith(".")]
    if stage != "teacher":
        assert len(json.loads((killed / "run.json").read_text())["sessions"]) == count + 1
