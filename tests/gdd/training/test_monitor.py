"""What is measured while a run goes on: when, once each, and without counting as training."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gdd.training.clock import Clock
from gdd.training.loop import train
from gdd.training.monitor import Monitor
from gdd.training.run_directory import RunDirectory
from gdd.training.session import Trained
from gdd.training.stop import Stopped
from gdd.training.world import World
from gdd.watch import progress_table, read_progress

BATCH, TOTAL, EVERY = 8, 100, 30
DUE = [32, 64, 96, 104]  # the first step boundaries at or after 30, 60, 90 and the end


class Trainee:
    """Counts images; `at` is called before every step."""

    def __init__(self, at: Callable[[int], None] = lambda images: None) -> None:
        self.images = 0
        self.at = at

    def step(self) -> dict[str, float]:
        self.at(self.images)
        self.images += BATCH
        return {"loss": float(self.images)}

    def snapshot(self, images: int) -> None: ...

    def state(self) -> dict[str, Any]:
        return {"images": self.images}

    def load(self, state: dict[str, Any]) -> None:
        self.images = state["images"]


def run(folder: Path, trainee: Trainee, measure: Any, every: int = EVERY, **changes: Any) -> Trained:
    options = {"total": TOTAL, "snapshots": [TOTAL], "checkpoint_every": 16, "log_every": 16} | changes
    monitor = Monitor(every, measure) if measure else None
    with RunDirectory(folder, "a") as directory:
        return train(trainee, directory, name="test", monitor=monitor, **options)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "state" / "log.jsonl").read_text().splitlines()]


def measured(folder: Path) -> dict[int, float]:
    """Return what the log says was measured, once each."""
    found = [line for line in lines(folder) if line.get("event") == "measurement"]
    assert len({line["images"] for line in found}) == len(found)
    return {line["images"]: line["fid_of_7"] for line in found}


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(line["images"], line["loss"]) for line in lines(folder) if "event" not in line]


def of(trainee: Trainee) -> Callable[[Callable[[], bool]], dict[str, float] | None]:
    """Return a measure that gives half the number of images."""
    return lambda interrupted: None if interrupted() else {"fid_of_7": trainee.images / 2}


EXPECTED = {images: images / 2 for images in DUE}


def test_a_line_of_its_own_and_the_other_lines_as_without_it(tmp_path: Path) -> None:
    trainee = Trainee()
    run(tmp_path / "with", trainee, of(trainee))
    run(tmp_path / "without", Trainee(), None)
    assert measured(tmp_path / "with") == EXPECTED
    assert losses(tmp_path / "with") == losses(tmp_path / "without")


def test_whoever_watches_sees_the_latest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainee = Trainee()
    run(tmp_path, trainee, of(trainee))
    (facts,) = read_progress(tmp_path)
    assert facts["measured"] == {"fid_of_7": 52.0}
    (losses,) = progress_table([facts]).columns[4].cells
    assert str(losses).endswith(" fid_of_7 52")


def test_and_sees_it_again_after_a_start(tmp_path: Path) -> None:
    trainee = Trainee(lambda images: os.kill(os.getpid(), signal.SIGTERM) if images == 40 else None)
    with pytest.raises(Stopped):
        run(tmp_path, trainee, of(trainee))
    seen = []

    def look(images: int) -> None:
        if images == 56:
            seen.append(read_progress(tmp_path)[0]["measured"])

    again = Trainee(look)
    run(tmp_path, again, of(again))
    assert seen == [{"fid_of_7": 16.0}]


@pytest.mark.parametrize("images", [32, 40, 64, 96])
def test_a_crash_leaves_no_gap_and_repeats_nothing(tmp_path: Path, images: int) -> None:
    def crash(now: int) -> None:
        if now == images:
            raise ZeroDivisionError

    broken = Trainee(crash)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, broken, of(broken))
    trainee = Trainee()
    run(tmp_path, trainee, of(trainee))
    assert measured(tmp_path) == EXPECTED


@pytest.mark.parametrize("images", [32, 64, 104])
def test_a_stop_comes_first_and_the_next_start_measures(tmp_path: Path, images: int) -> None:
    """Whatever takes long: the checkpoint is written at once, at the very step boundary."""
    trainee = Trainee()

    def slow(interrupted: Callable[[], bool]) -> dict[str, float] | None:
        if trainee.images == images:
            os.kill(os.getpid(), signal.SIGUSR2)
        return of(trainee)(interrupted)

    for _ in range(2):  # the second start is stopped before it has measured, too
        with pytest.raises(Stopped, match=f"stopped at {images} of 100"):
            run(tmp_path, trainee, slow)
        assert max(measured(tmp_path), default=0) < images
        trainee.images = 0
    run(tmp_path, trainee, of(trainee))
    assert measured(tmp_path) == EXPECTED


def test_what_is_left_over_is_forgotten_with_the_monitor(tmp_path: Path) -> None:
    trainee = Trainee()

    def stop(interrupted: Callable[[], bool]) -> dict[str, float] | None:
        os.kill(os.getpid(), signal.SIGUSR2)
        return of(trainee)(interrupted)

    with pytest.raises(Stopped):
        run(tmp_path, trainee, stop)
    run(tmp_path, Trainee(), None)
    assert measured(tmp_path) == {}
    assert losses(tmp_path)[-1][0] == 104


def test_it_takes_no_training_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("gdd.training.clock.time.monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    def measure(interrupted: Callable[[], bool]) -> dict[str, float]:
        advance(1000)
        return {"fid_of_7": 1.0}

    trained = run(tmp_path, Trainee(lambda _: advance(1)), measure)
    assert trained.seconds == 13
    assert [line["seconds"] for line in lines(tmp_path)] == [2, 4, 4, 6, 8, 8, 10, 12, 12, 13, 13]
    assert lines(tmp_path)[-2]["images_per_second"] == 8


def test_a_clock_stands_while_it_is_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("gdd.training.clock.time.monotonic", lambda: now[0])
    clock = Clock(5.0)
    now[0] = 2
    with clock.paused():
        now[0] = 100
        assert clock.seconds == 7
    now[0] = 101
    assert clock.seconds == 8


def test_no_number_is_no_end(tmp_path: Path) -> None:
    run(tmp_path, Trainee(), lambda _: {"fid_of_7": math.nan})
    assert measured(tmp_path) == dict.fromkeys(DUE)
    (facts,) = read_progress(tmp_path)
    assert facts["measured"] == {}


@pytest.mark.parametrize("answer", ["done", ""], ids=["measured", "interrupted"])
def test_the_others_wait_without_a_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    # Heard: where to resume; whether it was measured, after each of two steps; the snapshot or the checkpoint.
    told = ["", answer, *(["", answer] if answer else [""])]
    monkeypatch.setattr(World, "broadcast", lambda self, value: told.pop(0))
    monkeypatch.setattr(World, "any", lambda self, flag: False)
    trainee = Trainee()

    def follow() -> None:
        options: dict[str, Any] = {"total": 16, "snapshots": [16], "checkpoint_every": 99, "log_every": 8}
        train(trainee, None, name="test", monitor=Monitor(8, None), world=World(1, 2), **options)

    if answer:
        follow()
    else:
        with pytest.raises(Stopped):
            follow()
    assert told == []
    assert trainee.images == (16 if answer else 8)
