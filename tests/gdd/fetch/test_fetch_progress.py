"""How far a download is, on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress as RichProgress

from gdd.fetch.progress import Bar, Lines, readable


def test_lines_come_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines(iter([0.0, 1.0, 11.0, 12.0]).__next__)
    caplog.set_level("INFO", "gdd")
    lines.name("x")
    lines.begin(500, 2000)
    for done in (600, 1000, 1500):
        lines.update(done)
    assert [entry.message for entry in caplog.records] == ["x: 2 kB, 500 bytes are there", "x: 1 kB (50%)"]


def test_a_bar_on_a_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with RichProgress(console=console) as bars:
        bar = Bar(bars)
        for name in ("one.bin", "two.bin"):
            bar.name(name)
            bar.begin(500, 2000)
            bar.update(2000)
        bar.say("a [sentence]")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.index("a [sentence]") < shown.rindex("two.bin")
    assert [(task.description, task.completed, task.total) for task in bars.tasks] == [
        ("one.bin", 2000, 2000),
        ("two.bin", 2000, 2000),
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "size unknown"), (999, "999 bytes"), (170498071, "170 MB"), (1.2e12, "1.2e+03 GB")],
)
def test_readable(count: float | None, text: str) -> None:
    assert readable(count) == text
