"""The command `gdd fetch`."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from gdd.config.sources import Source

pytestmark = pytest.mark.slow  # real connections

ROOT = Path(__file__).resolve().parents[3]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def config(tmp_path: Path, source: Source) -> Path:
    path = tmp_path / "config"
    path.mkdir()
    (path / "sources.yaml").write_text(yaml.safe_dump({"sources": {"x": source.model_dump()}}))
    return path


@pytest.fixture
def gdd(config: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """Call `gdd fetch` in this process; returns its status and what it says."""
    from gdd import cli

    def call(*arguments: str) -> tuple[int, str, str]:
        options = ["--config", str(config), "--resources", str(folder)]
        monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a process of its own
        monkeypatch.setattr(logging, "captureWarnings", lambda _: None)
        monkeypatch.setattr(sys, "argv", ["gdd", "fetch", *options, *arguments])
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        return status, *capsys.readouterr()

    return call


def test_ctrl_c_leaves_what_the_same_command_goes_on_from(
    config: Path, server: Any, folder: Path, gdd: Any
) -> None:
    server.next(slow=0.1)
    command = [sys.executable, "-m", "gdd.cli", "fetch", "x", "--config", str(config)]
    process = subprocess.Popen(
        [*command, "--resources", str(folder)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background has them ignore Ctrl-C, which a child inherits.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    part = folder / "file.bin.part"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (part.exists() and part.stat().st_size > 500_000):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("gdd: interrupted.\n")
    assert {path.name for path in folder.iterdir()} == {"file.bin.part", "file.bin.part.json"}
    status, _, err = gdd("--all")
    assert status == 0
    assert err.endswith("1 fetched, 0 were there; all verified.\n")
    assert (folder / "file.bin").read_bytes() == server.content
    assert int((server.requests[1][1] or "").removeprefix("bytes=").removesuffix("-")) > 500_000


@pytest.mark.parametrize("how", ["flag", "local"])
def test_the_command_offline(config: Path, how: str, gdd: Any, folder: Path, no_network: None) -> None:
    if how == "local":
        (config / "local.yaml").write_text("offline: true\n")
    status, out, err = gdd("--all", *(["--offline"] if how == "flag" else []))
    assert (status, out) == (2, "")
    assert err.startswith("gdd: Offline, and 1 file is missing. Put each where its first line says")
    assert f"\n  {folder / 'file.bin'}\n" in err


def test_the_command_leaves_a_note_that_depends_on_the_content_alone(
    gdd: Any, folder: Path, tmp_path: Path, source: Source
) -> None:
    note = tmp_path / "x.json"
    assert gdd("x", "--note", str(note))[0] == 0
    told = json.loads(note.read_text())
    assert told == {"x": {"path": source.path, "sha256": sha256((folder / source.path).read_bytes())}}
    first = note.read_bytes()
    (folder / source.path).unlink()
    note.unlink()
    assert gdd("x", "--note", str(note))[0] == 0
    assert note.read_bytes() == first


def test_the_command_without_a_configuration(gdd: Any, config: Path) -> None:
    (config / "sources.yaml").unlink()
    assert gdd("x") == (2, "", f"gdd: {config}/sources.yaml does not exist; --config says where it lies.\n")


def test_the_command_lists(gdd: Any, no_network: None) -> None:
    status, out, err = gdd("--list")
    assert (status, err) == (0, "")
    assert out.startswith("x: missing\n    a test\n")


def test_nothing_asked_for(gdd: Any) -> None:
    sentence = "gdd: Name what to fetch, or use --all; --list shows what there is.\n"
    assert gdd() == (2, "", sentence)
