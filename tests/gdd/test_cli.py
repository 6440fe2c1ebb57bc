"""The command line: what goes in and out, and that no mistake ends in a traceback."""

from __future__ import annotations

import errno
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from gdd import cli
from gdd.config.config import SCHEMAS
from gdd.errors import ProcessLost, Stopped, UserError

ROOT = Path(__file__).resolve().parents[2]
TABLE = "ablations/small.yaml"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call `gdd` in this process; returns its status, output and errors."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])  # as in a process of its own
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(logging, "captureWarnings", lambda _: None)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gdd", *map(str, arguments)])
        root.handlers.clear()
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        for handler in root.handlers:
            handler.close()
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def gdd(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Call `gdd` in a process of its own."""
    command = [sys.executable, "-m", "gdd.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def is_sentence(text: str) -> bool:
    return text.endswith(".\n") and text.count("\n") == 1 and "Traceback" not in text


# In a process of its own


def test_a_mistake_in_a_file_is_said_and_logged(config_folder: Any, tmp_path: Path) -> None:
    config_folder.change(TABLE, ("rows", "GDD", "frezee"), "conv")
    log = tmp_path / "logs" / "some.log"
    done = gdd("--log", log, "--config", config_folder.path, "check")
    assert (done.returncode, done.stdout) == (2, "")
    assert is_sentence(done.stderr)
    assert f"{config_folder.path / TABLE}: unknown key 'rows.GDD.frezee'; allowed" in done.stderr
    called, failed = log.read_text().splitlines()
    assert "INFO gdd --log" in called
    assert failed.endswith(f"ERROR {done.stderr.strip()}")


# Bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "nowhere", "check"], "The configuration folder nowhere does not exist."),
        (["--extra", "nowhere", "check"], "The configuration folder nowhere does not exist."),
        (["dataset", "x"], "There is no 'x' in datasets/; there are: digits."),
        (["distill", "digits", "x", "--seed", "0"], "No table and no method has a run 'x' in the setting"),
        (["distill", "digits", "gdd", "--seed", "0", "--expect", "0"], "The configuration of the run digits/gdd "),
        (["evaluate", "run", "digits", "gdd", "--seed", "0"], "The run results/runs/digits/gdd/seed0 has no snap"),
        (["evaluate", "nowhere.pt", "--reference", "x", "--out", "y", "--metrics", "pixel_fid"], "nowhere.pt "),
        (["reference", "digits", "pixels"], "results/datasets/digits/dataset.json does not exist."),
        (["watch", "nowhere"], "nowhere is no folder; give the results folder of a workflow."),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(
    call: Call,
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config_folder: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert is_sentence(err)
    assert err.startswith(f"gdd: {words}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["distil"], "No such command 'distil'"),
        (["pairs", "digits"], "Missing option '--steps'"),
        (["--threads", "0", "check"], "0 is not in the range x>=1"),
        (["distill", "digits", "gdd", "--seed", "-1"], "-1 is not in the range x>=0"),
        (["figure", "pie", "small"], "'pie' is not one of"),
    ],
)
def test_wrong_usage(call: Call, arguments: list[str], words: str) -> None:
    status, _, err = call(*arguments)
    assert status == 2
    assert words in err
    assert "Traceback" not in err


# What goes wrong on the way


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (UserError("The key is missing."), 2, "The key is missing."),
        (
            Stopped("runs/x stopped after 64 images."),
            75,
            "runs/x stopped after 64 images. The same command resumes it.",
        ),
        (ProcessLost("It does not answer."), 75, "It does not answer."),
        (KeyboardInterrupt(), 130, "interrupted."),
        (click.Abort(), 130, "interrupted."),
        (
            OSError(errno.ENOSPC, "No space left on device", "results/x.npy"),
            1,
            "No space left on device: results/x.npy; make room or change the place.",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "No space left on device: while writing; make room or change the place.",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", "x"),
            1,
            "Disk quota exceeded: x; make room or change the place.",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "x"),
            1,
            "Permission denied: x; make room or change the place.",
        ),
    ],
)
def test_what_is_nobodys_defect(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, sentence: str
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "cli", fail)
    assert call() == (status, "", f"gdd: {sentence}\n")


@pytest.mark.parametrize("error", [RuntimeError("a defect"), OSError(errno.EIO, "Input/output error")])
def test_a_defect_keeps_its_traceback(call: Call, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "cli", fail)
    with pytest.raises(type(error)) as caught:
        call()
    assert caught.value is error


def test_a_full_disk(call: Call, monkeypatch: pytest.MonkeyPatch, config_folder: Any, tmp_path: Path) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gdd.files.os.fsync", full)
    status, _, err = call("dataset", "digits")
    assert status == 1
    place = "results/datasets/digits/images.npy"
    assert err == f"gdd: No space left on device: {place}; make room or change the place.\n"
    assert list(Path("results/datasets/digits").iterdir()) == []


# What goes right


def test_check(call: Call, config_folder: Any, tmp_path: Path) -> None:
    own = ["--config", config_folder.path]
    assert call(*own, "check") == (0, "1 tables of 2 runs, all in order.\n", "")
    mine = tmp_path / "mine" / "ablations" / "more.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(
        "title: T\nsetting: digits\nrows: {A: {method: gdd}, B: {method: direct}}\ncolumns: [fid]\n"
    )
    # The run that both tables have is counted once.
    found = call(*own, "--extra", tmp_path / "mine", "check")
    assert found == (0, "2 tables of 3 runs, all in order.\n", "")


def test_where_the_configuration_lies_may_stand_in_the_environment(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDD_CONFIG", "nowhere")
    monkeypatch.setenv("GDD_EXTRA", "")  # which names no folder
    assert call("check")[2] == "gdd: The configuration folder nowhere does not exist.\n"


def test_dataset(call: Call, config_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = call("--log", "some.log", "dataset", "digits")
    assert (status, out) == (0, "")
    assert err == "results/datasets/digits: 1,797 images of (1, 8, 8).\n"
    assert "INFO gdd --log" in Path("some.log").read_text()


def test_raw_data_is_found_by_the_configuration(
    call: Call, config_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = "{title: F, source: folder, resolution: 8, channels: 3, images: 7, classes: 0}"
    config_folder.write("datasets/faces.yaml", record)
    assert "is expected at a path you give: a folder" in call("dataset", "faces")[2]
    config_folder.write("local.yaml", "raw_data: {faces: /nowhere/faces}\n")
    assert "is expected at /nowhere/faces, which does not exist" in call("dataset", "faces")[2]


def test_schema(call: Call, tmp_path: Path) -> None:
    status, out, _ = call("schema", tmp_path)
    assert status == 0
    assert [Path(line).stem for line in out.splitlines()] == list(SCHEMAS)
    assert {path.stem for path in tmp_path.iterdir()} == set(SCHEMAS)


def test_watch_once(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    progress = tmp_path / "runs" / "digits" / "gdd" / "seed0" / "state" / "progress.json"
    progress.parent.mkdir(parents=True)
    facts = {"name": "runs/digits/gdd/seed0", "status": "finished", "images": 64, "total": 128, "host": "h"}
    facts |= {"images_per_second": 10.0, "seconds_left": 0, "losses": {}, "updated": 0.0}
    progress.write_text(json.dumps(facts))
    status, out, err = call("watch", "--once", tmp_path)
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["run", "status", "images", "img/s", "losses", "left", "host"],
        ["runs/digits/gdd/seed0", "finished", "64", "/", "128", "(50%)", "10", "h"],
    ]


def test_help_and_version(call: Call) -> None:
    status, out, _ = call("--help")
    assert status == 0
    for name in cli.cli.commands:
        assert re.search(rf"^  {name} ", out, re.MULTILINE)
    status, out, _ = call("--version")
    assert status == 0
    assert re.search(r"\d+\.\d+", out)


@pytest.mark.parametrize("name", sorted(cli.cli.commands))
def test_every_command_says_what_it_does(call: Call, name: str) -> None:
    status, out, _ = call(name, "-h")
    assert status == 0
    assert re.match(rf"Usage: .* {name} ", out)
    assert cli.cli.commands[name].help
