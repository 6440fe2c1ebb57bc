"""The command line: what goes in and out, and that no mistake ends in a traceback."""

from __future__ import annotations

import errno
import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gdd import cli
from gdd.config.config import SCHEMAS
from gdd.errors import ProcessLost, Stopped, UserError

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


@pytest.fixture
def here(config_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A project of a configuration alone, in which `gdd` is called."""
    monkeypatch.chdir(tmp_path)
    return config_folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "nowhere", "check"], "The configuration folder nowhere does not exist."),
        (["--extra", "nowhere", "check"], "The configuration folder nowhere does not exist."),
        (["dataset", "x"], "There is no 'x' in datasets/; there are: digits."),
        (["distill", "digits", "x", "--seed", "0"], "No table and no method has a run 'x' in the setting"),
        (["distill", "digits", "gdd", "--seed", "0", "--expect", "0"], "The configuration of the run digits/gdd "),
        (["evaluate", "run", "digits", "gdd", "--seed", "0"], "The data set results/datasets/digits does not "),
        (["evaluate", "nowhere.pt", "--reference", "x", "--out", "y", "--metrics", "pixel_fid"], "nowhere.pt "),
        (["reference", "digits", "pixels"], "The data set results/datasets/digits does not exist; make it "),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(call: Call, here: Any, arguments: list[str], words: str) -> None:
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"gdd: {words}")
    assert err.endswith(".\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["distil"], "No such command 'distil'"),
        (["pairs", "digits"], "Missing option '--steps'"),
        (["distill", "digits", "gdd", "--seed", "-1"], "-1 is not in the range x>=0"),
    ],
)
def test_wrong_usage(call: Call, arguments: list[str], words: str) -> None:
    status, _, err = call(*arguments)
    assert status == 2
    assert words in err


NO_SPACE, TO_DO = "No space left on device", "make room or change the place."


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (UserError("The key is missing."), 2, "The key is missing."),
        (Stopped("It stopped."), 75, "It stopped. The same command resumes it."),
        (ProcessLost("It does not answer."), 75, "It does not answer."),
        (KeyboardInterrupt(), 130, "interrupted."),
        (OSError(errno.ENOSPC, NO_SPACE, "results/x.npy"), 1, f"{NO_SPACE}: results/x.npy; {TO_DO}"),
        (OSError(errno.ENOSPC, NO_SPACE), 1, f"{NO_SPACE}: while writing; {TO_DO}"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "x"), 1, f"Is a directory: x; {TO_DO}"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 1, f"Permission denied: x; {TO_DO}"),
        (OSError(errno.EIO, "Input/output error"), None, ""),
        (RuntimeError("a defect"), None, ""),
    ],
)
def test_what_is_no_defect_is_a_sentence_and_a_defect_a_traceback(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int | None, sentence: str
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(cli.cli.commands["check"], "callback", fail)
    if status is None:
        with pytest.raises(type(error)) as caught:
            call("check")
        assert caught.value is error
    else:
        found, out, err = call("check")
        assert (found, out, err.lstrip("\n")) == (status, "", f"gdd: {sentence}\n")


def test_a_log_has_the_call_what_was_said_and_how_it_ended(call: Call, here: Any) -> None:
    status, out, err = call("--log", "logs/some.log", "dataset", "digits")
    assert (status, out) == (0, "")
    assert err == "results/datasets/digits: 1,797 images of (1, 8, 8).\n"
    here.change("ablations/small.yaml", ("rows", "GDD", "frezee"), "conv")
    _, _, err = call("--log", "logs/some.log", "check")
    assert err.startswith("gdd: config/ablations/small.yaml: unknown key 'rows.GDD.frezee'; allowed")
    lines = [line.split(" ", 2)[2] for line in Path("logs/some.log").read_text().splitlines()]
    called = "INFO gdd --log logs/some.log"
    assert lines[0::2] == [f"{called} dataset digits", f"{called} check"]
    assert lines[3] == f"ERROR {err.strip().removeprefix('gdd: ')}"


def test_a_log_takes_names_that_are_no_utf8(call: Call, here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def say(*_: Any) -> None:
        logging.getLogger(cli.LOG_ONLY).info("the image \udcff.png")

    monkeypatch.setattr(cli.cli.commands["check"], "callback", say)
    assert call("--log", "some.log", "check") == (0, "", "")
    assert "the image \\udcff.png" in Path("some.log").read_text()


def test_check(call: Call, here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("check") == (0, "1 tables, 2 runs: the configuration is valid.\n", "")
    mine = Path("mine/ablations/more.yaml")
    mine.parent.mkdir(parents=True)
    rows = "{A: {method: gdd}, B: {method: direct}}"
    mine.write_text(f"title: T\nsetting: digits\nrows: {rows}\ncolumns: [fid]\n")
    # The run that both tables have is counted once.
    assert call("--extra", "mine", "check")[1] == "2 tables, 3 runs: the configuration is valid.\n"
    # As the workflow says it.
    monkeypatch.setenv("GDD_CONFIG", "nowhere")
    monkeypatch.setenv("GDD_EXTRA", "")  # which names no folder
    assert call("check")[2] == "gdd: The configuration folder nowhere does not exist.\n"


def test_check_finds_what_would_fail_after_hours(call: Call, here: Any) -> None:
    here.change("ablations/small.yaml", ("rows", "GDD", "freeze"), ["*conv*", "*nothing*"])
    run = here.load().tables["small"][0].runs[0].id
    words = "The freeze pattern '*nothing*' matches no parameter; names look like 'model."
    assert call("check")[2].startswith(f"gdd: The run '{run}' of the setting 'digits': {words}")
    assert call("distill", "digits", run, "--seed", "0")[2].startswith(f"gdd: {words}")
    here.change("ablations/small.yaml", ("rows", "GDD", "freeze"), ["*conv*"])
    assert call("check")[0] == 0
    here.change("settings/digits.yaml", ("evaluation",), {"extractor": "inception", "samples": 5000})
    assert call("check")[2] == (
        "gdd: config/settings/digits.yaml: 1,797 images are too few for 'fid': the covariance of 2,048 "
        "features of 'inception' would be singular and the distance strongly biased; use at least 2,049 "
        "images, real and generated, or an extractor of fewer features.\n"
    )
    here.change("settings/digits.yaml", ("evaluation", "extractor"), "digits-judge")
    for samples, enough in ((64, False), (65, True)):
        here.change("settings/digits.yaml", ("evaluation", "samples"), samples)
        assert ("'digits-judge' would be singular" in call("check")[2]) is not enough
    here.change("settings/digits.yaml", ("evaluation", "samples"), 5000)
    here.change("settings/digits.yaml", ("evaluation", "extractor"), "clip")
    assert call("check")[2] == "gdd: There is no 'clip-vit-b-32' in sources.yaml; there are: none.\n"


def test_raw_data_is_found_by_the_configuration(call: Call, here: Any) -> None:
    record = "{title: F, source: folder, resolution: 8, channels: 3, images: 7, classes: 0}"
    here.write("datasets/faces.yaml", record)
    assert "is expected at a path you give: a folder" in call("dataset", "faces")[2]
    here.write("local.yaml", "raw_data: {faces: /nowhere/faces}\n")
    assert "is expected at /nowhere/faces, which does not exist" in call("dataset", "faces")[2]


def test_schema(call: Call, tmp_path: Path) -> None:
    status, out, _ = call("schema", tmp_path)
    assert status == 0
    assert [Path(line).stem for line in out.splitlines()] == list(SCHEMAS)


def test_watch_once(call: Call, tmp_path: Path) -> None:
    progress = tmp_path / "runs" / "digits" / "gdd" / "seed0" / "state" / "progress.json"
    progress.parent.mkdir(parents=True)
    facts = {"name": "runs/digits/gdd/seed0", "status": "finished", "images": 64, "total": 128, "host": "h"}
    facts |= {"images_per_second": 10.0, "seconds_left": 0, "losses": {}, "updated": 0.0}
    progress.write_text(json.dumps(facts))
    status, out, err = call("watch", "--once", tmp_path)
    assert (status, err) == (0, "")
    assert "runs/digits/gdd/seed0  finished  64 / 128 (50%)" in out


def test_help_and_version(call: Call) -> None:
    _, out, _ = call("--help")
    for name, command in cli.cli.commands.items():
        assert re.search(rf"^  {name} ", out, re.MULTILINE)
        assert command.help
    assert "fid, kid, precision" in call("evaluate", "-h")[1]
    assert re.search(r"\d+\.\d+", call("--version")[1])
