"""What goes wrong on a machine, through the command line: what is said, what is kept, and how it goes on."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

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


@pytest.fixture
def begin(tmp_path: Path, distill_command: Command) -> Callable[[Path, int], list[Path]]:
    """Train some steps of a run, one a start, and return its checkpoints: begin(folder, how many steps)."""
    stop = tmp_path / "stop"
    stop.touch()

    def run(folder: Path, steps: int) -> list[Path]:
        for _ in range(steps):
            done = call(distill_command(folder), env=os.environ | {STOP_FILE_VARIABLE: str(stop)})
            assert done.returncode == STOPPED, done.stderr
        return checkpoints(folder)

    return run


@pytest.fixture
def whole(tmp_path: Path, distill_command: Command, published: Published) -> dict[str, bytes]:
    """What the run publishes if nothing goes wrong."""
    assert call(distill_command(tmp_path / "whole")).returncode == 0
    return published(tmp_path / "whole")


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path,
    distill_command: Command,
    begin: Callable[[Path, int], list[Path]],
    whole: dict[str, bytes],
    published: Published,
) -> None:
    older, newest = begin(tmp_path / "run", 3)
    assert older.name.startswith("000000000016-")
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    done = call(distill_command(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert f"The checkpoint {newest} is damaged; trying the one before it." in done.stderr
    assert published(tmp_path / "run") == whole


def test_nothing_but_damaged_checkpoints_is_one_sentence(
    tmp_path: Path, distill_command: Command, begin: Callable[[Path, int], list[Path]]
) -> None:
    for path in begin(tmp_path / "run", 2):
        path.write_bytes(path.read_bytes()[:-10])
    done = call(distill_command(tmp_path / "run"))
    assert done.returncode == REFUSED
    assert done.stderr.splitlines()[-1].endswith("is damaged; delete the folder to start again.")
    assert len(checkpoints(tmp_path / "run")) == 2  # deleting is for the user to decide


@pytest.fixture(params=["a full disk", "a limit to files"])
def little_room(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A folder for a run, and what makes its next checkpoint fail there and lets it succeed again."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "a limit to files":
        # What anybody may set. The small files of a run pass.
        limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))}
        yield {"folder": folder, "fill": lambda: limit, "empty": lambda: None, "error": "File too large"}
        return
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here, which takes root's rights")
    filler = folder / "filler"

    def fill() -> dict[str, Any]:
        newest = max((folder / "run" / "state" / "checkpoints").iterdir())
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        filler.write_bytes(bytes(free - newest.stat().st_size // 2))
        return {}

    try:
        error = "No space left on device"
        yield {"folder": folder, "fill": fill, "empty": filler.unlink, "error": error}
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_one_sentence_and_leaves_the_older_checkpoints(
    distill_command: Command,
    begin: Callable[[Path, int], list[Path]],
    little_room: dict[str, Any],
    whole: dict[str, bytes],
    published: Published,
) -> None:
    folder = little_room["folder"] / "run"
    hashes = {path: sha256(path) for path in begin(folder, 2)}
    assert min(path.stat().st_size for path in hashes) > 40_000
    done = call(distill_command(folder), **little_room["fill"]())
    assert done.returncode == FAILED
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith(f"gdd: {little_room['error']}: {folder}/state/checkpoints/000000000024-")
    assert sentence.endswith("; make room or change the place.")
    assert "Traceback" not in done.stderr
    assert {path: sha256(path) for path in checkpoints(folder)} == hashes
    assert json.loads((folder / "state" / "progress.json").read_text())["status"] == "failed"

    little_room["empty"]()
    done = call(distill_command(folder))
    assert done.returncode == 0, done.stderr
    assert published(folder) == whole


@pytest.mark.parametrize("lost", [0, 1], ids=["the main process", "another"])
def test_a_lost_process_ends_the_job_within_a_minute_and_it_resumes(
    tmp_path: Path, distill_command: Command, lost: int
) -> None:
    folder = tmp_path / "run"
    command = distill_command(folder, "--processes", "2", images=320)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as job:
        log = folder / "state" / "log.jsonl"
        while not (log.exists() and len(log.read_text().splitlines()) > 2):
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
    assert images == list(range(8, 321, 8))


def test_losses_that_are_no_numbers_end_the_run_with_the_last_good_checkpoint(
    tmp_path: Path, distill_command: Command
) -> None:
    """After the first step, whose learning rate breaks the generator, no loss is a number."""
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
