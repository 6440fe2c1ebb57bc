from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gdd.errors import DivergedError
from gdd.training.loop import train
from gdd.training.run_directory import RunDirectory
from gdd.training.session import Trained
from gdd.training.stop import SIGNALS, STOP_FILE_VARIABLE, Stopped
from gdd.training.world import World

BATCH = 8


class Counting:
    """A trainee whose weights are the list of its steps."""

    def __init__(self, at: Callable[[int], None] = lambda images: None) -> None:
        self.images = 0
        self.steps: list[int] = []
        self.snapshots: list[tuple[int, int]] = []
        self.at = at

    def step(self) -> dict[str, float]:
        self.at(self.images)
        self.steps.append(self.images)
        self.images += BATCH
        return {"loss": float(self.images)}

    def snapshot(self, images: int) -> None:
        self.snapshots.append((images, self.images))

    def state(self) -> dict[str, Any]:
        return {"images": self.images, "steps": list(self.steps)}

    def load(self, state: dict[str, Any]) -> None:
        self.images, self.steps = state["images"], state["steps"]


def run(folder: Path, trainee: Counting, **changes: Any) -> Trained:
    options: dict[str, Any] = {
        "total": 100,
        "snapshots": [20, 24, 100],
        "checkpoint_every": 32,
        "log_every": 8,
    }
    with RunDirectory(folder, "a") as directory:
        return train(trainee, directory, name="test", **(options | changes))


def saved(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[0]) for path in (folder / "state" / "checkpoints").iterdir())


def status(folder: Path) -> str:
    return str(json.loads((folder / "state" / "progress.json").read_text())["status"])


@pytest.fixture(autouse=True)
def _no_stop_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STOP_FILE_VARIABLE, raising=False)


def test_ends_at_the_first_step_at_or_after_the_total(tmp_path: Path) -> None:
    trainee = Counting()
    assert run(tmp_path, trainee).seconds > 0
    assert trainee.images == 104
    # Nominal count and true count: each at the first step boundary at or after it.
    assert trainee.snapshots == [(20, 24), (24, 24), (100, 104)]
    assert saved(tmp_path) == [64, 96]
    assert status(tmp_path) == "finished"


def test_a_finished_run_needs_no_step(tmp_path: Path) -> None:
    run(tmp_path, Counting(), total=96)
    with RunDirectory(tmp_path, "a") as directory:
        directory.checkpoints.save(96, {"trainee": {"images": 96, "steps": [1]}, "seconds": 5.0})
    trainee = Counting()
    assert run(tmp_path, trainee, total=96).seconds == pytest.approx(5, abs=1)
    assert trainee.steps == [1]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_leaves_a_checkpoint_of_that_very_step(tmp_path: Path, number: int) -> None:
    def at(images: int) -> None:
        if images == 40:
            os.kill(os.getpid(), number)

    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(Stopped, match="test stopped at 48 of 100 images"):
        run(tmp_path, Counting(at))
    assert saved(tmp_path) == [32, 48]
    assert status(tmp_path) == "stopped"
    assert [signal.getsignal(number) for number in SIGNALS] == before

    trainee = Counting()
    run(tmp_path, trainee)
    assert trainee.steps == list(range(0, 104, BATCH))
    assert trainee.snapshots == [(100, 104)]


def test_the_stop_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = tmp_path / "stop"
    monkeypatch.setenv(STOP_FILE_VARIABLE, str(stop))
    with pytest.raises(Stopped):
        run(tmp_path / "run", Counting(lambda images: stop.touch() if images == 16 else None))
    assert saved(tmp_path / "run") == [24]
    with pytest.raises(Stopped, match="at 32"):  # as long as the file is there
        run(tmp_path / "run", Counting())
    stop.unlink()
    trainee = Counting()
    run(tmp_path / "run", trainee)
    assert trainee.steps == list(range(0, 104, BATCH))


def test_a_stop_in_the_last_step_is_the_end(tmp_path: Path) -> None:
    trainee = Counting(lambda images: os.kill(os.getpid(), signal.SIGTERM) if images == 96 else None)
    run(tmp_path, trainee)
    assert trainee.images == 104
    assert status(tmp_path) == "finished"


def test_a_second_ctrl_c_ends_at_once_with_the_last_checkpoint(tmp_path: Path) -> None:
    def at(images: int) -> None:
        if images == 40:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Counting(at))
    assert saved(tmp_path) == [32]
    assert status(tmp_path) == "failed"


def test_a_crash_resumes_at_the_last_checkpoint(tmp_path: Path) -> None:
    def at(images: int) -> None:
        if images == 56:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, Counting(at))
    assert status(tmp_path) == "failed"
    trainee = Counting()
    run(tmp_path, trainee)
    assert trainee.steps == list(range(0, 104, BATCH))
    log = [json.loads(line) for line in (tmp_path / "state" / "log.jsonl").read_text().splitlines()]
    assert [line["images"] for line in log] == list(range(BATCH, 105, BATCH))
    assert [line["loss"] for line in log] == [line["images"] for line in log]


def test_time_is_summed_over_starts(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, "a") as directory:
        saved = {"trainee": {"images": 96, "steps": []}, "seconds": 1234.0, "device_seconds": 5000.0}
        directory.checkpoints.save(96, saved)
    trained = run(tmp_path, Counting())
    assert 1234 <= trained.seconds < 1240
    assert 5000 <= trained.device_seconds < 5006  # two starts, one of them with several processes


class Diverging(Counting):
    """A trainee whose loss is no number in some steps, which `at` names by their first image."""

    def __init__(self, bad: range) -> None:
        super().__init__()
        self.bad = bad

    def step(self) -> dict[str, float]:
        scalars = super().step()
        before = self.images - BATCH
        return {"loss": math.nan, "logits": math.inf} if before in self.bad else scalars


def log_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "state" / "log.jsonl").read_text().splitlines()]


def test_losses_that_are_no_numbers_are_counted(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, Stopping(range(16, 40), 48), patience=4)
    trained = run(tmp_path, Diverging(range(80, 96)), patience=4)
    assert trained.nonfinite_steps == 3 + 2  # over both starts
    counts = [line["nonfinite_steps"] for line in log_lines(tmp_path)]
    assert counts == [0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 0]


class Stopping(Diverging):
    def __init__(self, bad: range, stop: int) -> None:
        super().__init__(bad)
        self.stop = stop

    def step(self) -> dict[str, float]:
        scalars = super().step()
        if self.images == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return scalars


def test_too_many_of_them_in_a_row_end_the_run_with_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DivergedError) as error:
        run(tmp_path, Diverging(range(56, 1000)), patience=4, checkpoint_every=8)
    assert "no finite loss in 4 steps in a row, up to 88 images" in str(error.value)
    assert saved(tmp_path) == [48, 56]  # none while it lasts
    assert str(max((tmp_path / "state" / "checkpoints").iterdir())) in str(error.value)
    assert status(tmp_path) == "failed"
    trainee = Counting()
    run(tmp_path, trainee)
    assert trainee.steps == list(range(0, 104, BATCH))


def test_without_a_checkpoint_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="there is no checkpoint from before"):
        run(tmp_path, Diverging(range(1000)), patience=2)


def test_weights_that_are_no_numbers_are_no_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Counting):
        def state(self) -> dict[str, Any]:
            weights = torch.tensor([1.0, math.nan if self.images >= 64 else 2.0])
            return {**super().state(), "layers": [{"weights": weights}]}

    run(tmp_path, Broken())
    assert saved(tmp_path) == [32]
    assert "no checkpoint at 64 images: not all is finite" in caplog.text


def test_a_follower_writes_nothing_and_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunDirectory(tmp_path, "a") as directory:
        path = directory.checkpoints.save(64, {"trainee": {"images": 64, "steps": [1]}, "seconds": 5.0})
    told: list[str] = [str(path), "", "", ""]
    monkeypatch.setattr(World, "broadcast", lambda self, value: told.pop(0))
    monkeypatch.setattr(World, "any", lambda self, flag: trainee.images == 96)  # another was asked to stop
    trainee = Counting()
    with pytest.raises(Stopped):
        train(
            trainee,
            None,
            name="test",
            total=100,
            snapshots=[80],
            checkpoint_every=1000,
            log_every=8,
            world=World(1, 2),
        )
    assert trainee.steps == [1, 64, 72, 80, 88]
    assert trainee.snapshots == []
    assert told == [""]  # heard: where to resume, the snapshot, the checkpoint
    assert saved(tmp_path) == [64]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def at(images: int) -> None:
        if images == 72:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, Counting(at))
    newest = max((tmp_path / "state" / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1])
    began: list[int] = []
    trainee = Counting(began.append)
    run(tmp_path, trainee)
    assert began[0] == 32
    assert trainee.steps == list(range(0, 104, BATCH))
    assert f"The checkpoint {newest} is damaged; trying the one before it." in caplog.text
