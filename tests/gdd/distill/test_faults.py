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

from gdd.distill.distill import distill
from gdd.files import sha256
from gdd.training.run_directory import load_checkpoint
from gdd.training.stop import STOP_FILE_VARIABLE, STOPPED

pytestmark = pytest.mark.slow

Command = Callable[..., list[str]]
Published = Callable[[Path], dict[str, bytes]]
MINUTE = 60
FAILED, REFUSED = 1, 2


def call(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=5 * MINUTE, **options)


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "state" / "checkpoints").iterdir())


def test_a_full_disk_is_one_sentence_and_leaves_the_older_checkpoints(
    tmp_path: Path,
    world: Any,
    distill_command: Command,
    published: Published,
) -> None:
    folder, stop = tmp_path / "run", tmp_path / "stop"
    stop.touch()
    for _ in range(2):  # a step each
        done = call(distill_command(folder), env=os.environ | {STOP_FILE_VARIABLE: str(stop)})
        assert done.returncode == STOPPED, done.stderr
    hashes = {path: sha256(path) for path in checkpoints(folder)}
    assert min(path.stat().st_size for path in hashes) > 40_000
    # As on a full disk a checkpoint cannot be written to its end, but the small files of a run can.
    limit = (20_000, 20_000)
    done = call(distill_command(folder), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert done.returncode == FAILED
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith(f"gdd: File too large: {folder}/state/checkpoints/000000000024-")
    assert sentence.endswith("; make room or change the place.")
    assert "Traceback" not in done.stderr
    assert {path: sha256(path) for path in checkpoints(folder)} == hashes
    assert json.loads((folder / "state" / "progress.json").read_text())["status"] == "failed"
    done = call(distill_command(folder))
    assert done.returncode == 0, done.stderr
    distill(tmp_path / "whole", world.recipe(), 1, world.inputs(), checkpoint_every=8)
    assert published(folder) == published(tmp_path / "whole")


@pytest.mark.parametrize("lost", [0, 1], ids=["the main process", "another"])
def test_a_lost_process_ends_the_job_within_a_minute_and_it_resumes(
    tmp_path: Path, distill_command: Command, lost: int
) -> None:
    folder = tmp_path / "run"
    command = distill_command(folder, "--processes", "2", images=160)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as job:
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
        _, told = job.communicate(timeout=MINUTE)
        assert job.returncode == 128 + 9
        assert "does not answer; the same command resumes the run." in told
        assert not any(process.is_running() for process in ranks.values())
    assert not (folder / "run.json").exists()

    done = call(command)
    assert done.returncode == 0, done.stderr
    images = [json.loads(line)["images"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert images == list(range(8, 161, 8))


def test_losses_that_are_not_finite_end_the_run_with_the_last_good_checkpoint(
    tmp_path: Path, distill_command: Command
) -> None:
    """After the first step, whose learning rate breaks the generator, no loss is finite."""
    rates = {"generator": 1e30, "discriminator": 1e-3}
    command = distill_command(tmp_path / "run", "--patience", "6", lr=rates, images=320, reuse_fakes=True)
    done = call(command)
    assert done.returncode == REFUSED, done.stderr
    (kept,) = checkpoints(tmp_path / "run")
    sentence = done.stderr.splitlines()[-1]
    assert "has had no finite loss in 6 steps in a row, up to 56 images" in sentence
    assert f"the last good checkpoint is {kept}. Try a smaller learning rate." in sentence
    assert load_checkpoint(kept)["trainee"]["images"] == 8
    lines = [json.loads(line) for line in (tmp_path / "run" / "state" / "log.jsonl").read_text().splitlines()]
    assert [line["nonfinite_steps"] for line in lines] == [0, 1, 1, 1, 1, 1, 1]
    assert lines[1]["loss_generator"] is None
    assert lines[1]["replaced_gradients"] > 0
