"""What rules hand to a shell, and the folders of `--config extra`."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snakemake.utils import format as snakemake_format

from gdd.config.names import NAME
from gdd.errors import UserError
from workflow.lib.rules import folders

ROOT = Path(__file__).parents[3]
SHELL = re.compile(r'^rule (\w+):\n(?:(?!^rule ).*\n)*?    shell:\n((?:        ".*"\n)+)', re.MULTILINE)
LINES = {
    name: ast.literal_eval(f"({literals})")
    for file in sorted((ROOT / "workflow" / "rules").glob("*.smk"))
    for name, literals in SHELL.findall(file.read_text())
}
NAMES = st.from_regex(NAME, fullmatch=True)
TEXTS = st.text("ab $()`'\";&|<>*?~#!\\\n-{}", min_size=1, max_size=8)


class Words(dict[str, str]):
    """Wildcards or parameters, each of which has the same text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __getattr__(self, _: str) -> str:
        return self.text


def test_every_rule_has_its_shell_line_here() -> None:
    files = (ROOT / "workflow" / "rules").glob("*.smk")
    assert len(LINES) == sum(file.read_text().count("    shell:\n") for file in files) > 0


@settings(max_examples=25, deadline=None)
@given(NAMES | TEXTS)
def test_a_name_is_one_word_of_every_shell_line(text: str) -> None:
    """The log's path stands for what has names in it."""
    log = f"results/logs/{text}.log"
    facts: dict[str, Any] = {"wildcards": Words(text), "params": Words(text), "log": [log], "threads": 3}
    facts["resources"] = SimpleNamespace(gpu=1, nodes=2)
    plain = {"threads": "3", "resources.gpu": "1", "resources.nodes": "2", "log": log}
    lines = " ".join(LINES.values())  # which are said at once: Snakemake takes its time
    expected = []
    for word in lines.split():
        field = re.fullmatch(r"\{([\w.]+)(?::q)?\}", word)
        expected.append(plain.get(field[1], text) if field else word)
    assert shlex.split(snakemake_format(lines, **facts)) == expected


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (None, ()),
        ("/a /b", ("/a", "/b")),
        ("'/a b' /c", ("/a b", "/c")),
        (["/a b", "/c"], ("/a b", "/c")),
        (("/a b",), ("/a b",)),
        (7, ("7",)),
    ],
)
def test_folders_of_extra(extra: Any, expected: tuple[str, ...]) -> None:
    assert folders(extra) == expected


def test_a_folder_with_spaces_alone(tmp_path: Path) -> None:
    (tmp_path / "a b's").mkdir()
    assert folders(f"{tmp_path}/a b's") == (f"{tmp_path}/a b's",)


def test_a_folder_with_one_quote() -> None:
    with pytest.raises(UserError, match=r"extra=/it's cannot be split into folders \(No closing quotation\)"):
        folders("/it's")
