"""What goes wrong on a machine, through the command line: what is said, what is kept, and how it goes on."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_project import BATCH, RUN, command, copy_project, make_project, write_config

from gdd.errors import STOPPED
from gdd.files import sha256
from gdd.training.processes import STOP_FILE_VARIABLE

pytestmark = pytest.mark.slow

MINUTE = 60
FAILED, REFUSED = 1, 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("project") / "p")


@pytest.fixture
def new_project(made: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a maker of a project in which the recipe is changed."""

    def new(**recipe: Any) -> Path:
        project = copy_project(made, tmp_path / "p")
        write_config(project, **recipe)
        return project

    return new


def call(project: Path, *options: str, **how: Any) -> subprocess.CompletedProcess[str]:
    words = command("distill", *options)
    return subprocess.run(
        words, cwd=project, capture_output=True, text=True, check=False, timeout=5 * MINUTE, **how
    )


def checkpoints(project: Path) -> list[Path]:
    return sorted((project / RUN / "state" / "checkpoints").iterdir())


def test_a_full_disk_is_one_sentence_and_leaves_the_last_checkpoint(
    new_project: Callable[..., Path], tmp_path: Path
) -> None:
    short = {"images": 6 * BATCH, "snapshot_every": 3 * BATCH}
    project, stop = new_project(**short), tmp_path / "stop"
    stop.touch()
    done = call(project, env=os.environ | {STOP_FILE_VARIABLE: str(stop)})  # a step
    assert done.returncode == STOPPED, done.stderr
    (kept,) = checkpoints(project)
    before = sha256(kept)
    assert kept.stat().st_size > 40_000
    # As on a full disk a checkpoint cannot be written to its end, but the small files of a run can.
    limit = (20_000, 20_000)
    done = call(project, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert done.returncode == FAILED
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith(f"gdd: File too large: {RUN}/state/")
    assert sentence.endswith("; make room or change the place.")
    assert "Traceback" not in done.stderr
    assert checkpoints(project) == [kept]
    assert sha256(kept) == before
    assert json.loads((project / RUN / "state" / "progress.json").read_text())["status"] == "failed"
    done = call(project)  # goes on from there, as `test_distill.py` shows
    assert done.returncode == 0, done.stderr
    assert len(json.loads((project / RUN / "run.json").read_text())["sessions"]) > 1


@pytest.mark.parametrize(
    "lost", [pytest.param(0, marks=pytest.mark.thorough), 1], ids=["the main process", "another"]
)
def test_a_lost_process_ends_the_job_within_a_minute_and_it_resumes(
    new_project: Callable[..., Path], lost: int
) -> None:
    project = new_project(images=20 * BATCH)
    folder, two = project / RUN, ["--processes", "2"]
    with subprocess.Popen(command("distill", *two), cwd=project, stderr=subprocess.PIPE, text=True) as job:
        log = folder / "state" / "log.jsonl"
        while not (log.exists() and len(log.read_text().splitlines()) > 1):
            assert job.poll() is None
            time.sleep(0.01)
        ranks = {
            int(process.environ()["RANK"]): process
            for process in psutil.Process(job.pid).children()
            if "RANK" in process.environ()
        }
        ranks[lost].kill()
        _, errors = job.communicate(timeout=MINUTE)
        assert job.returncode == 128 + 9
        assert "does not answer; the same command resumes the run." in errors
        assert not any(process.is_running() for process in ranks.values())
    assert not (folder / "run.json").exists()
    if lost:
        done = call(project, *two)
        assert done.returncode == 0, done.stderr
        images = [json.loads(line)["images"] for line in (folder / "log.jsonl").read_text().splitlines()]
        assert images == list(range(BATCH, 20 * BATCH + 1, BATCH))
