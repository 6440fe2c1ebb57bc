"""From metrics files to the cells of a table, and how they are written."""

from __future__ import annotations

import math
import shutil
import statistics
from pathlib import Path

import pytest

from gdd.errors import UserError
from gdd.report.notes import definitions, note
from gdd.report.table import build_table, paired
from gdd.report.table_files import cell_text


def line(table, title):
    return next(line for line in table.lines if line.row.title == title)


def of(table, title):
    """Return a function from a column to the cell of a row."""
    return lambda column: table.cell(line(table, title), column)


def text(table, title, column):
    return str(cell_text(table, line(table, title), column))


def known(cell):
    spreads = ("training_std", "sampling_std", "standard_error")
    return {key for key in spreads if not math.isnan(getattr(cell, key))}


def test_mean_and_both_spreads_are_kept_apart(project):
    table = build_table(project(seeds=(0, 1)), "objectives")
    cell = of(table, "GDD")("fid")
    seeds = [0.50, 0.50 + 0.1 * 0.5 * 0.50]
    assert cell.mean == pytest.approx(statistics.mean(seeds))
    assert cell.training_std == pytest.approx(statistics.stdev(seeds))
    assert cell.sampling_std == pytest.approx(0.05)
    assert cell.runs == 2
    assert known(of(table, "Teacher, 18 steps")("fid")) == {"sampling_std"}
    kinds = ["teacher", "teacher", "instance", "distributional", "distributional", "floor"]
    assert [line.kind for line in table.lines] == kinds
    # Known without being columns.
    found = [of(table, "GDD-I")(column).mean for column in ("images", "seconds", "trainable")]
    assert found == [28_800, pytest.approx(54.4), 159_000]


def test_training_spread_is_over_seeds_and_teachers(repeat):
    table = repeat()
    cell = of(table, "GDD")("fid")
    assert (cell.mean, cell.runs) == (pytest.approx(0.65), 6)
    assert cell.training_std == pytest.approx(0.011**0.5)  # by hand: (2 * 0.0225 + 4 * 0.0025) / 5
    assert cell.sampling_std == pytest.approx(0.05)
    teacher = of(table, "Teacher")("fid")
    assert (teacher.mean, teacher.training_std) == (pytest.approx(0.75), pytest.approx(0.005**0.5))
    words = "over 6 runs: 3 seeds × 2 teachers, in the teachers' rows over 2 teachers"
    assert f"[ ] is the training spread: the standard deviation {words}" in note(table)


def test_difference_from_the_row_above(repeat):
    table = repeat()
    assert of(table, "Teacher")("fid_difference") is None
    assert of(table, "Direct")("fid_difference") is None  # no student above
    cell = of(table, "GDD")("fid_difference")
    assert (cell.mean, cell.runs) == (pytest.approx(-1.0), 6)
    # By hand: the differences are -1, -1.1, -0.9 twice, with variance 0.04 / 5.
    assert cell.standard_error == pytest.approx((0.008 / 6) ** 0.5)
    assert known(cell) == {"standard_error"}
    assert text(table, "GDD", "fid_difference") == "−1.00 (SE 0.04)"
    assert text(table, "Both", "fid_difference").startswith("+0.55")
    assert "same teacher and seed (6 pairs)" in note(table)


def test_best_and_fresh_blocks(repeat):
    table = repeat()
    cells = of(table, "GDD")
    assert cells("best_fid").mean == pytest.approx(0.45)
    assert known(cells("best_fid")) == {"training_std"}
    assert cells("best_fid_fresh").mean == pytest.approx(0.60)
    assert cells("best_fid_fresh").training_std == pytest.approx(0.011**0.5)
    assert cells("final_fid_fresh").mean == pytest.approx(0.65)
    assert cells("fid_minimum").mean == pytest.approx(0.60)
    assert of(table, "Teacher")("best_fid") is None
    assert of(table, "Teacher")("final_fid_fresh").mean == pytest.approx(0.75)


def test_only_runs_of_equal_teacher_and_seed_are_paired(repeat):
    table = repeat()
    teacher, direct, gdd = table.lines[:3]
    pairs = paired(table.runs, gdd, direct, "fid")
    assert list(zip(pairs["teacher"], pairs["seed"], strict=True))[3:] == [("digits-b", s) for s in range(3)]
    assert list(pairs["value_first"] - pairs["value_second"]) == pytest.approx([-1.0, -1.1, -0.9] * 2)
    alone = table.runs[~((table.runs["line"] == direct.number) & (table.runs["entry"] > 0))]
    assert paired(alone, gdd, direct, "fid")["value_first"].tolist() == pytest.approx([0.5])
    # A teacher pairs with every run from it.
    of_teacher = paired(table.runs, gdd, teacher, "fid")["value_second"].tolist()
    assert of_teacher == pytest.approx([0.7] * 3 + [0.8] * 3)


def test_one_run_and_one_block_have_no_spread(project):
    table = build_table(project(blocks=1), "objectives")
    assert known(of(table, "GDD")("fid")) == set()
    assert text(table, "GDD", "fid") == "0.50"
    assert "sampling spread is unknown" in note(table)
    assert "training spread is unknown" in note(table)


@pytest.mark.parametrize(
    "missing",
    [
        "runs/digits/gdd/seed0/metrics.json",
        "runs/digits/gdd/seed0/run.json",
        "teachers/digits/metrics/digits-steps1.json",
    ],
)
def test_a_row_with_a_missing_file_is_missing(project, missing):
    experiments = project()
    (Path("results") / missing).unlink()
    (row,) = [line for line in build_table(experiments, "objectives").lines if line.missing]
    assert row.command == f"snakemake --cores 2 results/{missing}"
    assert not row.evaluated


def test_a_table_without_any_row_is_refused(project):
    experiments = project()
    shutil.rmtree("results")
    with pytest.raises(UserError, match=r"metrics/digits-steps18.json does not exist, nor any row of"):
        build_table(experiments, "objectives")


def test_a_run_of_another_recipe_is_refused(project):
    experiments, path = project(), Path("results/runs/digits/gdd/seed0/run.json")
    path.write_text(path.read_text().replace('"batch": 64', '"batch": 128'))
    with pytest.raises(UserError, match="another recipe"):
        build_table(experiments, "objectives")


SNAPSHOTS = """
title: Snapshots
setting: digits
rows:
  Teacher: {teacher_steps: 18}
  GDD, early: {method: gdd, at: 9_600}
  GDD, end: {method: gdd}
  GDD, best: {method: gdd, at: best}
  GDD, other rate: {method: gdd, lr: {generator: 1e-3}, at: best}
columns: [reported_fid, fid_minimum, images]
"""
REPORTED = """
reported:
  - {setting: digits, method: gdd, fid: 0.4, source: a paper}
  - {setting: digits, teacher_steps: 18, fid: 0.7, source: another paper}
  - {setting: digits, teacher_steps: 35, fid: 0.6, source: a paper nobody asked for}
  - {setting: other, method: gdd, fid: 9.0, source: a paper on something else}
  - {setting: digits, work: Theirs, fid: 0.21, source: their paper}
  - {setting: digits, work: Others, fid: 0.3, source: a report}
  - {setting: other, work: Elsewhere, fid: 0.1, source: a paper on something else}
"""


def test_rows_show_their_snapshot_and_what_others_report_of_it(project, change):
    experiments = project(other={"reported": REPORTED}, snapshots=SNAPSHOTS)
    table = build_table(experiments, "snapshots")
    found = {
        line.row.title: [getattr(table.cell(line, key), "mean", None) for key in table.ablation.columns]
        for line in table.lines
        if line.kind != "floor"
    }
    assert found == {
        "Teacher": [0.7, pytest.approx(0.67), None],
        "GDD, early": [None, 3.0, 9_600],  # the papers report the best snapshot
        "GDD, end": [None, pytest.approx(0.45), 28_800],
        "GDD, best": [0.4, pytest.approx(0.3), 16_000],
        "GDD, other rate": [None, pytest.approx(0.3), 16_000],  # not the papers' method any more
    }
    assert definitions(table)["reported_fid"].endswith("Sources: another paper; a paper.")
    assert note(table).endswith(
        "FID that is reported of other one-step generators: "
        "Digits 8x8: Theirs 0.21 (their paper), Others 0.3 (a report)."
    )
    floor = next(line for line in table.lines if line.kind == "floor")
    assert table.cell(floor, "reported_fid") is None  # that no row shows their work does not make it this one
    change("digits/gdd/seed0", also_at={})
    with pytest.raises(
        UserError, match=r"not evaluated at 9600 images; add the count to 'evaluation.also_at'"
    ):
        build_table(experiments, "snapshots")


@pytest.mark.parametrize(
    ("at", "sentence"),
    [
        (6_400, "'at' is 6400, but the setting 'digits' evaluates the snapshots at 9600 and the end"),
        ("last", "'rows.GDD.at' is 'last': input should be"),
    ],
)
def test_counts_that_no_snapshot_has(project, at, sentence):
    with pytest.raises(UserError) as caught:
        project(
            late=f"{{title: T, setting: digits, rows: {{GDD: {{method: gdd, at: {at}}}}}, columns: [fid]}}"
        )
    assert sentence in str(caught.value)
