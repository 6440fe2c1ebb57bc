from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest

from gdd.errors import Stopped
from gdd.training import log as module
from gdd.training.log import TrainingLog
from gdd.watch import progress_table, read_progress

KEYS = ["images", "loss_generator", "replaced_gradients", "images_per_second", "seconds", "peak_memory_mib"]


def follow(folder: Path, start: int = 0, seconds: float = 0.0) -> TrainingLog:
    folder.mkdir(parents=True, exist_ok=True)
    return TrainingLog("digits/gdd/seed0", folder, start, 100, seconds)


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "log.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def images(folder: Path) -> list[int]:
    return [line["images"] for line in lines(folder)]


def test_lines_at_even_distances_and_at_the_end_hold_the_mean_since_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINES", 3)
    log = follow(tmp_path)
    for step in range(1, 14):  # 8 images a step, so that lines fall on the first step after 33, 66, ...
        log.step(8 * step, {"loss_generator": float(step), "replaced_gradients": 0})
    assert images(tmp_path) == [40, 72, 104]
    assert [line["loss_generator"] for line in lines(tmp_path)] == [3.0, 7.5, 11.5]
    assert all(list(line) == KEYS and line["peak_memory_mib"] > 0 for line in lines(tmp_path))


def test_a_damaged_log_loses_its_damaged_lines_only(tmp_path: Path) -> None:
    good = b'{"images": 8}\n'
    damaged = [b"\xff\xfe\x00", b"[]", b"{}", b"3", b'{"images": "x"}', b"[" * 10_000]
    (tmp_path / "log.jsonl").write_bytes(good + b"\n".join(damaged) + b"\n" + good)
    follow(tmp_path, start=8)
    assert images(tmp_path) == [8, 8]


def test_resuming_forgets_what_will_be_logged_again(tmp_path: Path) -> None:
    log = follow(tmp_path)
    for seen in range(8, 97, 8):
        log.step(seen, {"loss": 1.0})
        if seen == 40:
            log.measure(lambda: {"fid_of_7": 3.0})
    expected = images(tmp_path)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"images": 99, "lo')  # its writer was killed
    resumed = follow(tmp_path, start=48, seconds=1000.0)
    assert images(tmp_path) == [count for count in expected if count <= 48] == [8, 16, 24, 32, 40, 40, 48]
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
    log = follow(tmp_path / "runs" / "digits" / "gdd" / "seed0" / "state")
    log.__enter__()
    scalars = {"loss_generator": 0.5, "loss_discriminator": math.nan, "logits_real": 1.0}
    log.step(8, scalars)
    (running,) = read_progress(tmp_path)
    expected = {
        "name": "digits/gdd/seed0",
        "status": "running",
        "pid": os.getpid(),
        "images": 8,
        "total": 100,
    }
    assert expected.items() <= running.items()
    assert abs(running["updated"] - time.time()) < 10
    log.step(96, scalars)
    assert lines(log.folder)[-1]["loss_discriminator"] is None  # type: ignore[arg-type]
    log.__exit__(error, None, None)
    (ended,) = read_progress(tmp_path)
    finite = {"loss_generator": 0.5, "logits_real": 1.0}
    assert (ended["status"], ended["images"], ended["losses"]) == (status, 96, finite)
    progress_table([ended])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"digits/gdd/seed0: {status} at 96 of 100 images, ")


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


def test_another_process_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingLog("run", None, 0, 100, seconds=5.0) as log:
        log.step(8, {"loss": 1.0})
        assert log.seconds >= 5
    assert capsys.readouterr().err == ""
