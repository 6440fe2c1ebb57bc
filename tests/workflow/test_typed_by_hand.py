"""Stages by name: the rules' shell lines are what a person types."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gdd.stages import STAGES

pytestmark = [pytest.mark.workflow, pytest.mark.slow, pytest.mark.thorough]  # Snakemake types the same


def test_lines_of_a_dry_run_typed_by_hand(project: Any) -> None:
    """From nothing to a table, without Snakemake."""

    def two_rows(data: dict[str, Any]) -> None:
        data["rows"] = {title: data["rows"][title] for title in ("Teacher, 18 steps", "GDD")}
        del data["claims"]

    project.edit("ablations/demo-objectives.yaml", two_rows)
    target, order = "results/tables/demo-objectives.md", list(STAGES)
    kind = re.compile(r"\b(evaluate (?:run|teacher)|" + "|".join(order) + r") ")

    def place(line: str) -> int:
        return order.index(kind.search(line)[1].replace(" ", "_"))  # type: ignore[index]

    typed = sorted(project.lines(target), key=place)
    assert len(typed) == 11
    for line in typed:
        done = project.shell(line)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert project.planned(target) == set()
