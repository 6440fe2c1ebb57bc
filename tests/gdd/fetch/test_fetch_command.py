"""The command `gdd fetch`."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gdd.config.sources import Source

pytestmark = pytest.mark.slow  # real connections


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


@pytest.mark.parametrize("how", ["flag", "local"])
def test_the_command_offline(config: Path, how: str, gdd: Any, folder: Path, no_network: None) -> None:
    if how == "local":
        (config / "local.yaml").write_text("offline: true\n")
    status, out, err = gdd("--all", *(["--offline"] if how == "flag" else []))
    assert (status, out) == (2, "")
    assert err.startswith("gdd: Offline, and 1 file is missing. Put each where its first line says")
    assert f"\n  {folder / 'file.bin'}\n" in err


def test_the_command_leaves_a_note_that_depends_on_the_content_alone(
    gdd: Any, folder: Path, tmp_path: Path, server: Any
) -> None:
    note = tmp_path / "x.json"
    status, _, err = gdd("x", "--note", str(note))
    assert status == 0
    assert err.endswith("1 fetched, 0 were there; all verified.\n")
    content = hashlib.sha256(server.content).hexdigest()
    assert json.loads(note.read_text()) == {"x": {"path": "file.bin", "sha256": content}}
    first = note.read_bytes()
    (folder / "file.bin").unlink()
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
