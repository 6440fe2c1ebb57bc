"""`gdd watch`: what runs say of themselves, in one table."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gdd.errors import UserError
from gdd.watch import SILENT_AFTER, progress_table, read_progress, watch

FACTS = {
    "status": "running",
    "images": 4800,
    "total": 19_200,
    "images_per_second": 312.4,
    "seconds_left": 3671,
    "losses": {"loss_generator": 0.7071, "logits_real": 2.5},
    "measured": {"fid_of_500": 12.345},
    "host": "node17",
    "pid": 1,
}


def tell(results: Path, name: str, **facts: Any) -> Path:
    path = results / name / "state" / "progress.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**FACTS, "name": name, "updated": time.time(), **facts}))
    return path


def test_a_line_a_run_running_ones_first(tmp_path: Path) -> None:
    tell(tmp_path, "runs/a", status="finished", images=19_200)
    tell(tmp_path, "runs/new", images=0, images_per_second=0.0, seconds_left=None, losses={}, measured={})
    tell(tmp_path, "runs/old")
    console = Console(width=160, file=io.StringIO())
    console.print(progress_table(read_progress(tmp_path)))
    assert isinstance(console.file, io.StringIO)
    assert [" ".join(line.split()) for line in console.file.getvalue().splitlines()] == [
        "run status images img/s losses left host",
        "runs/new running 0 / 19,200 (0%) 0 node17",
        "runs/old running 4,800 / 19,200 (25%) 312 generator 0.707 fid_of_500 12.35 1:01:11 node17",
        # What has ended has no time left.
        "runs/a finished 19,200 / 19,200 (100%) 312 generator 0.707 fid_of_500 12.35 node17",
    ]


def test_a_run_without_news_is_in_doubt_and_broken_files_are_passed_over(tmp_path: Path) -> None:
    long_ago = time.time() - SILENT_AFTER - 1
    tell(tmp_path, "runs/dead", updated=long_ago)
    tell(tmp_path, "runs/done", updated=long_ago, status="finished")
    tell(tmp_path, "runs/alive", updated=time.time() - SILENT_AFTER / 2)
    tell(tmp_path, "runs/broken").write_text('{"name": "ru')
    for name, content in enumerate((b"[]", b"3", b"{}", b"\xff\x00", b'{"status": "running", "updated": 0}')):
        tell(tmp_path, f"runs/broken{name}").write_bytes(content)
    tell(tmp_path, "runs/odd", losses=3)
    gone = tell(tmp_path, "runs/gone")
    gone.unlink()
    gone.symlink_to(tmp_path / "nowhere")
    states = {facts["name"]: facts["status"] for facts in read_progress(tmp_path)}
    assert states == {"runs/dead": "silent", "runs/done": "finished", "runs/alive": "running"}


def test_no_terminal_gets_one_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    watch(tmp_path, once=True, interval=0.0)  # nothing has begun, which is no mistake
    name = "runs/digits/gdd-i.lr.discriminator-0.0003.batch-128/seed0"
    tell(tmp_path, name)
    watch(tmp_path, once=False, interval=0.0)
    assert capsys.readouterr().out.count(name) == 1
    with pytest.raises(UserError, match=r"nowhere is no folder; give the results folder of a workflow\.$"):
        watch(tmp_path / "nowhere", once=True, interval=0.0)


def test_a_terminal_is_kept_up_to_date_until_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=160, file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr("gdd.watch.Console", lambda: console)
    path = tell(tmp_path, "runs/x")
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            raise KeyboardInterrupt
        path.write_text(json.dumps({**json.loads(path.read_text()), "images": 9600}))

    monkeypatch.setattr("gdd.watch.time.sleep", sleep)
    watch(tmp_path, once=False, interval=0.25)
    assert waits == [0.25, 0.25]
    assert isinstance(console.file, io.StringIO)
    assert all(share in console.file.getvalue() for share in ("25%", "50%"))
