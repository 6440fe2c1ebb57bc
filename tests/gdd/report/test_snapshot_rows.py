"""Rows that show a snapshot other than the last, and numbers that others report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gdd.config.load import load_config
from gdd.errors import UserError
from gdd.experiments import Experiments, pictured
from gdd.report.findings import findings
from gdd.report.runs import snapshot_at
from gdd.report.tables import build_table

ROWS = """
title: Snapshots
setting: digits
rows:
  Teacher: {teacher_steps: 18}
  GDD, early: {method: gdd, at: 9_600}
  GDD, end: {method: gdd}
  GDD, best: {method: gdd, at: best}
  GDD, other rate: {method: gdd, lr: {generator: 1e-3}, at: best}
columns: [reported_fid, fid, images]
curve: {y: fid}
"""
REPORTED = [
    {"setting": "digits", "method": "gdd", "fid": 0.4, "source": "a paper"},
    {"setting": "digits", "teacher_steps": 18, "fid": 0.7, "source": "another paper"},
    {"setting": "digits", "teacher_steps": 35, "fid": 0.6, "source": "a paper nobody asked for"},
    {"setting": "other", "method": "gdd", "fid": 9.0, "source": "a paper on something else"},
]


@pytest.fixture
def experiments(make_experiments: Any) -> Experiments:
    folder = make_experiments(snapshots=ROWS).config.roots[0]
    setting = yaml.safe_load((folder / "settings/digits.yaml").read_text())
    setting["evaluation"]["also_at"] = [9_600]
    (folder / "settings/digits.yaml").write_text(yaml.safe_dump(setting))
    (folder / "reported.yaml").write_text(yaml.safe_dump({"reported": REPORTED}))
    return Experiments(load_config(folder))


@pytest.fixture
def results(experiments: Experiments, write_results: Any, tmp_path: Path) -> Path:
    write_results(experiments, tmp_path, ["snapshots"])
    for path in tmp_path.glob("runs/*/*/*/metrics.json"):
        metrics = json.loads(path.read_text())
        final = metrics["final"] | {"images": 28_800}
        early, best = (
            {**final, "images": images, "mean": {**final["mean"], "fid": fid}}
            for images, fid in ((9_600, 3.0), (16_000, 0.2))
        )
        path.write_text(json.dumps(metrics | {"final": final, "best": best, "also_at": {"9600": early}}))
    return tmp_path


def test_every_row_shows_its_snapshot(experiments: Experiments, results: Path) -> None:
    lines = {line.title: line for line in build_table(experiments, "snapshots", results).lines}
    assert {title: line.value("fid") for title, line in lines.items() if line.run} == {
        "GDD, early": 3.0,
        "GDD, end": 0.5,
        "GDD, best": 0.2,
        "GDD, other rate": 0.2,
    }
    images = {"GDD, early": 9_600, "GDD, end": 28_800, "GDD, best": 16_000}
    assert {title: lines[title].value("images") for title in images} == images


def test_reported_numbers_stand_beside_the_row_they_belong_to(
    experiments: Experiments, results: Path
) -> None:
    table = build_table(experiments, "snapshots", results)
    assert {line.title: line.value("reported_fid") for line in table.lines} == {
        "Teacher": 0.7,
        "GDD, early": None,  # the papers report the best snapshot
        "GDD, end": None,
        "GDD, best": 0.4,
        "GDD, other rate": None,  # not the papers' method any more
    }
    assert table.definitions["reported_fid"].endswith("Sources: another paper; a paper.")


def test_one_run_is_one_curve_and_is_compared_once(experiments: Experiments, results: Path) -> None:
    titles = [row.title for row in pictured(experiments.rows("snapshots"))]
    assert titles == ["Teacher", "GDD, end", "GDD, other rate"]
    sentences = " ".join(
        found.text for found in findings([build_table(experiments, "snapshots", results)], experiments)
    )
    assert "GDD, early" not in sentences
    assert "GDD, best" not in sentences


def test_a_snapshot_that_was_not_judged(results: Path) -> None:
    metrics = json.loads(next(results.glob("runs/*/*/*/metrics.json")).read_text())
    with pytest.raises(
        UserError, match=r"not judged at 3200 images; add the count to .* 'evaluation.also_at'"
    ):
        snapshot_at(metrics, 3_200)
    assert snapshot_at(metrics, 28_800) == metrics["final"]


@pytest.mark.parametrize(
    ("at", "also_at", "sentence"),
    [
        (9_600, [], "'at' is 9600, but the setting 'digits' judges the snapshots at no count and the end"),
        (9_601, [9_601], "'at' is 9601, but the run keeps one every 3200 images up to 28800"),
        ("last", [], "'rows.GDD.at' is 'last': input should be"),
    ],
)
def test_counts_that_no_snapshot_has(
    make_experiments: Any, at: Any, also_at: list[int], sentence: str
) -> None:
    table = f"{{title: T, setting: digits, rows: {{GDD: {{method: gdd, at: {at}}}}}, columns: [fid]}}"
    folder = make_experiments().config.roots[0]
    setting = yaml.safe_load((folder / "settings/digits.yaml").read_text())
    setting["evaluation"]["also_at"] = also_at
    (folder / "settings/digits.yaml").write_text(yaml.safe_dump(setting))
    (folder / "ablations/late.yaml").write_text(table)
    with pytest.raises(UserError) as caught:
        assert Experiments(load_config(folder)).tables
    assert sentence in str(caught.value)


def test_a_teacher_has_no_snapshots(make_experiments: Any) -> None:
    table = "{title: T, setting: digits, rows: {A: {teacher_steps: 18, at: best}}, columns: [fid]}"
    with pytest.raises(UserError, match="only 'teacher' can stand beside it, not 'at'"):
        make_experiments(late=table)
