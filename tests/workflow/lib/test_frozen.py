"""A workflow's own copy of its configuration."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gdd.errors import UserError
from workflow.lib.frozen import COPIES, EXTRA, FOLDER, KEPT, Frozen, hand_on, handed_on


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A configuration and one with what is a user's own, as names in the folder that a workflow runs in."""
    monkeypatch.chdir(tmp_path)
    for name in ("config/config.yaml", "config/settings/one.yaml", "my own/settings/two.yaml"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("before")
    hand_on("config", "my own")
    return "config", "my own"


def test_jobs_read_what_the_files_said_when_the_workflow_started(folders: tuple[str, str]) -> None:
    assert handed_on() == [*folders]
    Frozen(*folders).freeze()
    Path("config/settings/one.yaml").write_text("after")
    Path("my own/settings/two.yaml").unlink()
    own, extra = handed_on()
    assert os.environ[FOLDER] == own
    assert os.environ[EXTRA] == extra
    assert (Path(own) / "settings/one.yaml").read_text() == "before"
    assert (Path(extra) / "settings/two.yaml").read_text() == "before"
    assert (Path(own) / "config.yaml").exists()
    assert [path.name for path in COPIES.iterdir()] == [Path(own).parent.name]


def test_workflows_of_one_configuration_share_a_copy_and_others_do_not(folders: tuple[str, str]) -> None:
    copies = []
    for text in ("before", "after", "before"):
        Path("config/settings/one.yaml").write_text(text)
        Frozen(*folders).freeze()
        copies.append(handed_on())
    assert copies[0] == copies[2] != copies[1]


def test_an_edit_between_planning_and_starting_is_refused(folders: tuple[str, str]) -> None:
    frozen = Frozen(*folders)
    Path("config/settings/one.yaml").write_text("after")
    with pytest.raises(UserError, match="was edited while the workflow was planned; start again"):
        frozen.freeze()


def test_copies_go_when_nothing_has_used_them_for_long(folders: tuple[str, str]) -> None:
    first, second = Frozen(*folders), Path("config/config.yaml")
    first.freeze()
    old = Path(handed_on()[0]).parent
    second.write_text("after")
    os.utime(old, (0, time.time() - KEPT + 60))
    Frozen(*folders).freeze()
    assert old.exists()
    os.utime(old, (0, time.time() - KEPT - 60))
    Frozen(*folders).freeze()
    assert not old.exists()
    hand_on(str(old / "0"))
    with pytest.raises(UserError, match="that this job was planned with, is gone; start again"):
        handed_on()
    # A job that starts counts as a use.
    copy = next(COPIES.iterdir())
    hand_on(str(copy / "0"))
    os.utime(copy, (0, 0))
    handed_on()
    assert copy.stat().st_mtime > time.time() - 60
