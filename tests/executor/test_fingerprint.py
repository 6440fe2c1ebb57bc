"""A changed rule is not taken for the old one."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from snakemake_executor_plugin_submitit import private


class File(str):
    """A file name as Snakemake has them."""

    is_ancient = False


def print_of(folder: Path, **changed: Any) -> tuple[str, str]:
    rule = SimpleNamespace(
        name="train",
        script=changed.pop("script", None),
        notebook=None,
        wrapper=None,
        cwl=None,
        run_func_src=changed.pop("run_func_src", None),
        basedir=folder,
    )
    job = SimpleNamespace(
        rule=rule,
        output=["out"],
        input=[File(folder / "in")],
        params={"lr": 0.1},
        shellcmd="train --lr 0.1",
        wildcards_dict={"name": "a"},
        is_group=lambda: False,
    )
    vars(job).update(changed)
    return private.key(job), private.work(job)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").write_text("data")
    (tmp_path / "train.py").write_text("pass")
    return tmp_path


def test_the_same_job_is_the_same(folder: Path) -> None:
    assert print_of(folder) == print_of(folder)


@pytest.mark.parametrize(
    "changed",
    [
        {"shellcmd": "train --lr 0.2"},
        {"params": {"lr": 0.2}},
        {"params": {"rate": 0.1}},
        {"input": []},
        {"run_func_src": "new code"},
        {"script": "train.py"},
    ],
)
def test_other_work(folder: Path, changed: dict[str, Any]) -> None:
    before, after = print_of(folder), print_of(folder, **changed)
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_an_input_that_was_written_again_is_other_work(folder: Path) -> None:
    before = print_of(folder)
    os.utime(folder / "in", (1, 1))
    assert print_of(folder)[1] != before[1]


def test_an_ancient_input_is_not_looked_at(folder: Path) -> None:
    file = File(folder / "in")
    file.is_ancient = True
    before = print_of(folder, input=[file])
    os.utime(folder / "in", (1, 1))
    assert print_of(folder, input=[file]) == before


def test_a_scripts_content_counts(folder: Path) -> None:
    before = print_of(folder, script="train.py")
    (folder / "train.py").write_text("1")
    assert print_of(folder, script="train.py")[1] != before[1]


def test_another_job(folder: Path) -> None:
    assert print_of(folder)[0] != print_of(folder, output=["other"])[0]
    assert print_of(folder, output=[])[0] != print_of(folder, output=[], wildcards_dict={"name": "b"})[0]


def test_an_address_is_no_difference(folder: Path) -> None:
    assert print_of(folder, params={"f": object()}) == print_of(folder, params={"f": object()})
