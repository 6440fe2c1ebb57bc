"""One display: bars on a terminal, lines now and then elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gdd import progress
from gdd.progress import Display, progress_bar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    monkeypatch.delenv(progress.PROGRESS_VARIABLE, raising=False)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    return screen


def test_lines_come_now_and_then(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as display:
        images = display.bar("run", 1000, done=400)
        for second, done in ((3, 500), (10, 600), (19, 700), (20, 800)):
            clock[0] = second
            images.update(done, "loss 0.5")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "run: 600/1,000 20 img/s loss 0.5 0:00:20 left",
        "run: 800/1,000 20 img/s loss 0.5 0:00:10 left",
    ]


@pytest.mark.parametrize(
    ("total", "text"), [(170_000_000, "/170.0 MB 1.0 MB/s 0:02:30 left"), (None, " 1.0 MB/s")]
)
def test_bytes(clock: list[float], capsys: pytest.CaptureFixture[str], total: int | None, text: str) -> None:
    with Display() as display:
        file = display.bar("file", total, unit="bytes")
        clock[0] = 20.0
        file.advance(20_000_000)
    assert capsys.readouterr().err == f"file: 20.0 MB{text}\n"


def test_bars_on_a_terminal(terminal: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as display:
        for name in ("one.bin", "two.bin"):
            display.bar(name, 2000, unit="bytes").update(2000)
        display.say("a [sentence]")
        display.bar("run", 100).update(40, "loss 0.5")
    shown = terminal.getvalue()
    for part in ("one.bin", "2.0 kB/2.0 kB", "a [sentence]", "40/100", "loss 0.5"):
        assert part in shown
    assert capsys.readouterr().err == ""


def test_plain_where_it_is_asked_for(
    terminal: io.StringIO,
    clock: list[float],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(progress.PROGRESS_VARIABLE, "plain")
    caplog.set_level("INFO", "gdd")
    with Display() as display:
        display.say("a sentence")
    with progress_bar("images", 10) as advance:
        clock[0] = 10.0
        advance(5)
    assert terminal.getvalue() == ""
    assert caplog.messages == ["a sentence"]
    assert capsys.readouterr().err == "images: 5/10 0 img/s 0:00:10 left\n"


def test_other_processes_show_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("images", 10, shown=False) as advance:
        clock[0] = 100.0
        advance(5)
    assert capsys.readouterr().err == ""
