"""What a plan takes from the files of finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workflow.lib.needs import Needs
from workflow.lib.plan import Measured

pytestmark = pytest.mark.slow  # imports Snakemake


@pytest.mark.parametrize(
    "content", ["[]", "3", "{}", '{"sessions": 3, "seconds": "x", "provenance": []}', "{"]
)
def test_files_of_finished_runs_may_hold_anything(
    config_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("results/runs/digits/gdd/seed0")
    folder.mkdir(parents=True)
    for name in ("run.json", "metrics.json"):
        (folder / name).write_text(content)
    measured = Measured(Needs(config_folder.load()))
    assert (measured._training_rates, measured._evaluating) == ({}, {})
