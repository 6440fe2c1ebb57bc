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


def test_what_jobs_took_on_a_cluster(
    config_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(".snakemake/submitit")
    folder.mkdir(parents=True)
    head = "rule,name,state,used_minutes\n"
    jobs = "teacher,teacher digits,COMPLETED,30\nteacher,teacher digits,FAILED,1\nteacher,teacher digits,COMPLETED,\n"
    (folder / "efficiency_report_a.csv").write_text(head + jobs)
    (folder / "efficiency_report_b.csv").write_text(head + "teacher,teacher digits,COMPLETED,60\n")
    for name, content in {"c": "", "d": "no,such,columns\n1,2,3\n", "e": head + "a,b,COMPLETED,x\n"}.items():
        (folder / f"efficiency_report_{name}.csv").write_text(content)
    measured = Measured(Needs(config_folder.load()))
    teacher = measured.need("teacher", {"teacher": "digits"})
    assert (teacher.hours, teacher.known) == (0.75, "measured here")
    assert measured.need("features", {"name": "digits-features"}).known != "measured here"
