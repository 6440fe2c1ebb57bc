from __future__ import annotations

import io
import json
import math
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gdd.training import progress as module
from gdd.training.progress import TrainingProgress
from gdd.watch import progress_table, read_progress


def follow(folder: Path, start: int = 0, **changes: Any) -> TrainingProgress:
    folder.mkdir(parents=True, exist_ok=True)
    options = {"start": start, "total": 100, "every": 20, "seconds": 0.0} | changes
    return TrainingProgress("digits/gdd/seed0", folder, **options)


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "log.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def test_a_line_every_so_many_images_with_the_mean_since_the_last(tmp_path: Path) -> None:
    progress = follow(tmp_path)
    for step in range(1, 11):  # 8 images a step, so that lines fall on the first step after 20, 40, ...
        progress.step(8 * step, {"loss_generator": float(step), "replaced_gradients": 0})
    log = lines(tmp_path)
    assert [line["images"] for line in log] == [24, 40, 64, 80]
    assert [line["loss_generator"] for line in log] == [2.0, 4.5, 7.0, 9.5]
    for line in log:
        assert line.keys() >= {"images_per_second", "seconds", "peak_memory_mib", "replaced_gradients"}
        assert line["peak_memory_mib"] > 0


def test_the_last_step_has_a_line(tmp_path: Path) -> None:
    progress = follow(tmp_path, every=1000)
    for images in range(8, 105, 8):
        progress.step(images, {"loss": 1.0})
    assert [line["images"] for line in lines(tmp_path)] == [104]


def test_resuming_forgets_what_will_be_logged_again(tmp_path: Path) -> None:
    progress = follow(tmp_path)
    for images in range(8, 97, 8):
        progress.step(images, {"loss": 1.0})
    expected = [line["images"] for line in lines(tmp_path)]
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"images": 99, "lo')  # its writer was killed
    resumed = follow(tmp_path, start=48)
    assert [line["images"] for line in lines(tmp_path)] == [images for images in expected if images <= 48]
    for images in range(56, 97, 8):
        resumed.step(images, {"loss": 1.0})
    assert [line["images"] for line in lines(tmp_path)] == expected


def test_time_counts_over_all_starts(tmp_path: Path) -> None:
    progress = follow(tmp_path, seconds=1000.0)
    assert 1000 <= progress.seconds < 1010
    time.sleep(0.01)
    progress.step(100, {"loss": 1.0})
    assert progress.rate() > 100  # images a second of this start alone


def test_progress_is_what_watching_needs(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "digits" / "gdd" / "seed0" / "state"
    progress = follow(folder)
    progress.step(8, {"loss_generator": 0.5, "logits_real": 1.0})
    (running,) = read_progress(tmp_path)
    assert (running["name"], running["status"], running["pid"]) == (
        "digits/gdd/seed0",
        "running",
        os.getpid(),
    )
    assert (running["images"], running["total"]) == (8, 100)
    assert abs(running["updated"] - time.time()) < 10
    for images in range(16, 101, 8):
        progress.step(images, {"loss_generator": 0.5, "logits_real": 1.0})
    progress.close("stopped")
    console = Console(file=io.StringIO(), width=200)
    console.print(progress_table(read_progress(tmp_path)))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("digits/gdd/seed0", "stopped", "96 / 100 (96%)", "generator 0.500"):
        assert part in shown


def test_no_step_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    progress = TrainingProgress("run", tmp_path, start=0, total=64, every=16, seconds=0)
    monkeypatch.setattr("gdd.files.os.fsync", lambda _: pytest.fail("waits"))
    progress.step(8, {"loss": 1.0})
    assert json.loads((tmp_path / "progress.json").read_text())["images"] == 8


def test_a_diverged_loss_neither_ends_the_run_nor_breaks_the_log(tmp_path: Path) -> None:
    progress = follow(tmp_path / "state")
    progress.step(20, {"loss_generator": math.nan, "loss_discriminator": math.inf, "logits_real": 1.0})
    progress.close("finished")
    (line,) = lines(tmp_path / "state")
    assert (line["loss_generator"], line["loss_discriminator"], line["logits_real"]) == (None, None, 1.0)
    (facts,) = read_progress(tmp_path)
    assert facts["losses"] == {"logits_real": 1.0}
    progress_table([facts])


def test_a_full_disk_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    follow(tmp_path).step(8, {"loss": 1.0})


def test_it_says_how_it_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = follow(tmp_path)
    progress.step(96, {"loss": 0.25})
    progress.close("finished")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("digits/gdd/seed0: finished at 96 of 100 images, ")


def test_tensorboard_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, folder: Path, purge_step: int) -> None:
            assert (folder, purge_step) == (tmp_path / "tensorboard", 41)  # what was logged at 40 stays

        def add_scalar(self, key: str, value: float, images: int) -> None:
            written.append((key, value, images))

        def flush(self) -> None: ...

        def close(self) -> None:
            written.append(("closed", 0, 0))

    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    progress = follow(tmp_path, start=40)
    progress.step(60, {"loss_generator": 0.5, "loss_discriminator": math.nan})
    progress.close("finished")
    assert ("loss_generator", 0.5, 60) in written
    assert {key for key, _, _ in written} >= {"images_per_second", "peak_memory_mib", "closed"}
    assert not {"images", "loss_discriminator"} & {key for key, _, _ in written}
