"""The command `gdd fetch`."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from gdd.cli import cli
from gdd.config.sources import Source
from gdd.errors import UserError

pytestmark = pytest.mark.slow  # real connections


@pytest.fixture
def gdd(config_folder: Any, source: Source, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call `gdd fetch` for the server's file x in a project; returns what it prints, or its complaint."""
    monkeypatch.chdir(config_folder.path.parent)
    Path("config/sources.yaml").write_text(yaml.safe_dump({"sources": {"x": source.model_dump()}}))

    def call(*arguments: str) -> str:
        result = CliRunner().invoke(cli, ["fetch", *arguments])
        if isinstance(result.exception, UserError):
            return str(result.exception)
        assert result.exit_code == 0, result.exception
        return result.stdout

    return call


@pytest.mark.parametrize("how", ["flag", "local"])
def test_offline(how: str, gdd: Any, no_network: None) -> None:
    if how == "local":
        Path("config/local.yaml").write_text("offline: true\n")
    sentence = gdd("--all", *(["--offline"] if how == "flag" else []))
    assert sentence.startswith("Offline, and 1 file is missing. Put each where its first line says")
    assert "\n  resources/file.bin\n" in sentence


def test_a_note_depends_on_the_content_alone(gdd: Any, server: Any, caplog: pytest.LogCaptureFixture) -> None:
    note, notes = Path("results/fetched/x.json"), []
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            gdd("x", "--note")
            notes.append(note.read_bytes())
            Path("resources/file.bin").unlink()
    assert "1 fetched, 0 were there; all verified." in caplog.text
    content = hashlib.sha256(server.content).hexdigest()
    assert json.loads(notes[0]) == {"path": "file.bin", "sha256": content}
    assert notes[0] == notes[1]


def test_what_else_it_says(gdd: Any, no_network: None) -> None:
    assert gdd("--list").startswith("x: missing\n    a test\n")
    assert gdd() == "Name what to fetch, or use --all; --list shows what there is."
    assert gdd("y") == "There is no 'y' in sources.yaml; there are: x."
    Path("config/sources.yaml").unlink()
    assert gdd("x") == "config/sources.yaml does not exist; `gdd --config` says where it lies."
