from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gdd.errors import DivergedError, Stopped
from gdd.training.loop import Monitor, Trained, train
from gdd.training.processes import SIGNALS, STOP_FILE_VARIABLE
from gdd.training.run_directory import own_run
from gdd.training.world import World

BATCH = 8
ALL = list(range(0, 104, BATCH))


class Counting:
    """A trainee whose weights are the list of its steps; `at` is called before each, with the images seen."""

    def __init__(self, at: Callable[[int], None] = lambda images: None, bad: range = range(0)) -> None:
        self.images = 0
        self.steps: list[int] = []
        self.snapshots: list[tuple[int, int]] = []
        self.at = at
        self.bad = bad  # images at which the loss is NaN

    def step(self) -> dict[str, float]:
        self.at(self.images)
        nonfinite = self.images in self.bad
        self.steps.append(self.images)
        self.images += BATCH
        return {"loss": math.nan, "logits": math.inf} if nonfinite else {"loss": float(self.images)}

    def snapshot(self, images: int) -> None:
        self.snapshots.append((images, self.images))

    def state(self) -> dict[str, Any]:
        return {"images": self.images, "steps": list(self.steps)}

    def load(self, state: dict[str, Any]) -> None:
        self.images, self.steps = state["images"], state["steps"]


OPTIONS: dict[str, Any] = {"name": "test", "total": 100, "snapshots": [20, 24, 100], "checkpoint_every": 32}


def run(folder: Path, trainee: Counting, **changes: Any) -> Trained:
    with own_run(folder, "a") as directory:
        return train(trainee, directory, **(OPTIONS | changes))


def saved(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[0]) for path in (folder / "state" / "checkpoints").iterdir())


def progress(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "state" / "progress.json").read_text())
    return found


def log_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "state" / "log.jsonl").read_text().splitlines()]


def signals(*numbers: int, at: int) -> Callable[[int], None]:
    return lambda images: [os.kill(os.getpid(), number) for number in numbers if images == at]  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def _no_stop_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STOP_FILE_VARIABLE, raising=False)


def test_ends_at_the_first_step_at_or_after_the_total(tmp_path: Path) -> None:
    trainee = Counting(signals(signal.SIGTERM, at=96))  # a stop in the last step is the end
    assert run(tmp_path, trainee).seconds > 0
    assert trainee.images == 104
    # Nominal count and true count: each at the first step boundary at or after it.
    assert trainee.snapshots == [(20, 24), (24, 24), (100, 104)]
    assert saved(tmp_path) == [64, 96]
    assert progress(tmp_path)["status"] == "finished"


def test_a_finished_run_needs_no_step_and_time_is_summed_over_starts(tmp_path: Path) -> None:
    took = {"seconds": 1234.0, "device_seconds": 5000.0, "nonfinite_steps": 3}
    with own_run(tmp_path, "a") as directory:
        directory.save_checkpoint(104, {"trainee": {"images": 104, "steps": [1]}, "trained": took})
    trainee = Counting()
    trained = run(tmp_path, trainee)
    assert trainee.steps == [1]
    assert trained == pytest.approx((1234, 5000, 3), abs=5)


@pytest.mark.parametrize("how", ["file", *SIGNALS])
def test_a_request_to_stop_leaves_a_checkpoint_of_that_very_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Any
) -> None:
    stop_file = tmp_path / "stop"
    monkeypatch.setenv(STOP_FILE_VARIABLE, str(stop_file))
    ask = signals(how, signal.SIGUSR2, at=40)  # which may come again
    if how == "file":
        ask = lambda images: stop_file.touch() if images == 40 else None  # noqa: E731
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(Stopped, match="test stopped at 48 of 100 images"):
        run(tmp_path, Counting(ask))
    assert saved(tmp_path) == [32, 48]
    assert progress(tmp_path)["status"] == "stopped"
    assert [signal.getsignal(number) for number in SIGNALS] == before
    if how == "file":
        with pytest.raises(Stopped, match="at 56"):  # as long as the file is there
            run(tmp_path, Counting())
        stop_file.unlink()

    trainee = Counting()
    run(tmp_path, trainee)
    assert trainee.steps == ALL
    assert trainee.snapshots == [(100, 104)]


def test_a_second_ctrl_c_ends_at_once_with_the_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Counting(signals(signal.SIGINT, signal.SIGINT, at=40)))
    assert saved(tmp_path) == [32]
    assert progress(tmp_path)["status"] == "failed"


@pytest.mark.parametrize("damaged", [False, True])
def test_a_crash_resumes_at_the_last_whole_checkpoint(tmp_path: Path, damaged: bool) -> None:
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, Counting(lambda images: 1 // (images - 72)))  # type: ignore[arg-type, return-value]
    if damaged:
        newest = max((tmp_path / "state" / "checkpoints").iterdir())
        newest.write_bytes(newest.read_bytes()[:-1])
    began: list[int] = []
    trainee = Counting(began.append)
    run(tmp_path, trainee)
    assert began[0] == (32 if damaged else 64)
    assert trainee.steps == ALL
    assert [line["images"] for line in log_lines(tmp_path)] == list(range(BATCH, 105, BATCH))
    assert [line["loss"] for line in log_lines(tmp_path)] == list(range(BATCH, 105, BATCH))


def test_nonfinite_losses_are_counted_over_all_starts(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, Counting(signals(signal.SIGTERM, at=40), range(16, 40)), patience=4)
    trained = run(tmp_path, Counting(bad=range(80, 96)), patience=4)
    assert trained.nonfinite_steps == 3 + 2
    counts = [line["nonfinite_steps"] for line in log_lines(tmp_path)]
    assert counts == [0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 0]


def test_too_many_of_them_in_a_row_end_the_run_with_the_last_good_checkpoint(tmp_path: Path) -> None:
    options = {"patience": 4, "checkpoint_every": 8}
    with pytest.raises(Stopped):  # no checkpoint, though it is asked to stop
        run(tmp_path, Counting(signals(signal.SIGTERM, at=64), range(56, 1000)), **options)
    assert saved(tmp_path) == [48, 56]
    with pytest.raises(DivergedError) as error:
        run(tmp_path, Counting(bad=range(56, 1000)), **options)
    assert "no finite loss in 4 steps in a row, up to 88 images" in str(error.value)
    assert saved(tmp_path) == [48, 56]
    assert str(max((tmp_path / "state" / "checkpoints").iterdir())) in str(error.value)
    assert progress(tmp_path)["status"] == "failed"
    with pytest.raises(DivergedError, match="there is no checkpoint from before"):
        run(tmp_path / "other", Counting(bad=range(1000)), patience=2)


def test_another_process_writes_nothing_and_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with own_run(tmp_path, "a") as directory:
        path = directory.save_checkpoint(64, {"trainee": {"images": 64, "steps": [1]}, "trained": {}})
    received: list[Any] = [path, None, None, None, None]
    monkeypatch.setattr(World, "broadcast", lambda self, value: received.pop(0))
    monkeypatch.setattr(World, "any", lambda self, flag: trainee.images == 96)  # another was asked to stop
    trainee = Counting()
    monitor = Monitor(40, lambda interrupted: pytest.fail("measures"))
    options = OPTIONS | {"snapshots": [80], "checkpoint_every": 1000}
    with pytest.raises(Stopped):
        train(trainee, None, world=World(1, 2), monitor=monitor, **options)
    assert trainee.steps == [1, 64, 72, 80, 88]
    assert trainee.snapshots == []
    assert received == [None]  # where to resume; then the main process's snapshot, measurement and checkpoint
    assert saved(tmp_path) == [64]


# What is measured on the way


def half(trainee: Counting) -> Callable[[Callable[[], bool]], dict[str, float] | None]:
    """Return a measure that gives half the number of images."""
    return lambda interrupted: None if interrupted() else {"fid_of_7": trainee.images / 2}


def measured(folder: Path) -> dict[int, float]:
    found = [line for line in log_lines(folder) if line.get("event") == "measurement"]
    return {line["images"]: line["fid_of_7"] for line in found}


def test_measurements_have_lines_of_their_own_and_the_others_are_as_without(tmp_path: Path) -> None:
    trainee, plain = Counting(), Counting()
    run(tmp_path / "with", trainee, monitor=Monitor(30, half(trainee)))
    run(tmp_path / "without", plain)
    # The first step boundaries at or after 30, 60, 90 and the end.
    assert measured(tmp_path / "with") == {32: 16, 64: 32, 96: 48, 104: 52}
    assert progress(tmp_path / "with")["measured"] == {"fid_of_7": 52.0}
    losses = [
        [(line["images"], line["loss"]) for line in log_lines(tmp_path / name) if "event" not in line]
        for name in ("with", "without")
    ]
    assert losses[0] == losses[1]
    assert trainee.steps == plain.steps


def test_a_stop_comes_first_and_leaves_the_measurement_out(tmp_path: Path) -> None:
    trainee = Counting(signals(signal.SIGUSR2, at=56))
    with pytest.raises(Stopped, match="stopped at 64 of 100"):
        run(tmp_path, trainee, monitor=Monitor(30, half(trainee)))
    trainee = Counting()
    run(tmp_path, trainee, monitor=Monitor(30, half(trainee)))
    assert list(measured(tmp_path)) == [32, 96, 104]


def test_measuring_takes_no_training_time_and_nan_is_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("gdd.training.log.time.monotonic", lambda: now[0])
    monkeypatch.setattr("gdd.training.log.LINES", 2)

    def advance(seconds: float) -> None:
        now[0] += seconds

    def measure(interrupted: Callable[[], bool]) -> dict[str, float]:
        advance(1000)
        return {"fid_of_7": math.nan}

    trained = run(tmp_path, Counting(lambda _: advance(1)), monitor=Monitor(50, measure))
    assert trained.seconds == 13
    assert [line["seconds"] for line in log_lines(tmp_path)] == [7, 7, 13, 13]
    assert log_lines(tmp_path)[-2]["images_per_second"] == 8
    assert measured(tmp_path) == {56: None, 104: None}
    assert progress(tmp_path)["measured"] == {}
