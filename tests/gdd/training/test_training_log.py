from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest

from gdd.training import log as module
from gdd.training.log import TrainingLog
from gdd.training.stop import Stopped
from gdd.watch import progress_table, read_progress


def follow(folder: Path, start: int = 0, **changes: Any) -> TrainingLog:
    folder.mkdir(parents=True, exist_ok=True)
    options = {"start": start, "total": 100, "every": 20, "seconds": 0.0} | changes
    return TrainingLog("digits/gdd/seed0", folder, **options)


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "log.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def images(folder: Path) -> list[int]:
    return [line["images"] for line in lines(folder)]


def test_a_line_every_so_many_images_and_at_the_end_with_the_mean_since_the_last(tmp_path: Path) -> None:
    log = follow(tmp_path, every=30)
    for step in range(1, 14):  # 8 images a step, so that lines fall on the first step after 30, 60, ...
        log.step(8 * step, {"loss_generator": float(step), "replaced_gradients": 0})
    assert images(tmp_path) == [32, 64, 96, 104]
    assert [line["loss_generator"] for line in lines(tmp_path)] == [2.5, 6.5, 10.5, 13.0]
    keys = [
        "images",
        "loss_generator",
        "replaced_gradients",
        "images_per_second",
        "seconds",
        "peak_memory_mib",
    ]
    assert all(list(line) == keys for line in lines(tmp_path))
    assert lines(tmp_path)[0]["peak_memory_mib"] > 0


def test_resuming_forgets_what_will_be_logged_again(tmp_path: Path) -> None:
    log = follow(tmp_path)
    for seen in range(8, 97, 8):
        log.step(seen, {"loss": 1.0})
        if seen == 40:
            log.measured({"fid_of_7": 3.0})
    expected = images(tmp_path)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"images": 99, "lo')  # its writer was killed
    resumed = follow(tmp_path, start=48, seconds=1000.0)
    assert images(tmp_path) == [count for count in expected if count <= 48] == [24, 40, 40]
    for seen in range(56, 97, 8):
        resumed.step(seen, {"loss": 1.0})
    assert images(tmp_path) == expected
    assert lines(tmp_path)[-1]["seconds"] >= 1000
    assert lines(tmp_path)[-1]["images_per_second"] > 1  # of this start alone


@pytest.mark.parametrize(
    ("error", "status"), [(None, "finished"), (Stopped, "stopped"), (KeyboardInterrupt, "failed")]
)
def test_progress_is_what_watching_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: type[BaseException] | None, status: str
) -> None:
    folder = tmp_path / "runs" / "digits" / "gdd" / "seed0" / "state"
    log = follow(folder)
    log.__enter__()
    log.step(8, {"loss_generator": 0.5, "logits_real": 1.0})
    (running,) = read_progress(tmp_path)
    assert (running["name"], running["status"], running["pid"]) == (
        "digits/gdd/seed0",
        "running",
        os.getpid(),
    )
    assert (running["images"], running["total"]) == (8, 100)
    assert abs(running["updated"] - time.time()) < 10
    log.step(96, {"loss_generator": 0.5, "logits_real": 1.0})
    log.__exit__(error, None, None)
    (ended,) = read_progress(tmp_path)
    assert (ended["status"], ended["images"], ended["losses"]) == (
        status,
        96,
        {"loss_generator": 0.5, "logits_real": 1.0},
    )
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"digits/gdd/seed0: {status} at 96 of 100 images, ")


def test_no_step_waits_for_the_disk_or_ends_because_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = follow(tmp_path)
    monkeypatch.setattr("gdd.files.os.fsync", lambda _: pytest.fail("waits"))
    log.step(8, {"loss": 1.0})
    assert json.loads((tmp_path / "progress.json").read_text())["images"] == 8

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    monkeypatch.setattr(module, "WATCH_INTERVAL", 0.0)
    log.step(16, {"loss": 1.0})


def test_a_nonfinite_loss_neither_ends_the_run_nor_breaks_the_log(tmp_path: Path) -> None:
    log = follow(tmp_path / "state")
    log.step(20, {"loss_generator": math.nan, "loss_discriminator": math.inf, "logits_real": 1.0})
    (line,) = lines(tmp_path / "state")
    assert (line["loss_generator"], line["loss_discriminator"], line["logits_real"]) == (None, None, 1.0)
    (facts,) = read_progress(tmp_path)
    assert facts["losses"] == {"logits_real": 1.0}
    progress_table([facts])


def test_another_process_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingLog("run", None, start=0, total=100, every=8, seconds=5.0) as log:
        log.step(8, {"loss": 1.0})
        assert log.seconds >= 5
    assert capsys.readouterr().err == ""
