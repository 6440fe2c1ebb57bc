from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from gdd.report.curves import gather as gather_curves
from gdd.report.curves import plot_curve
from gdd.report.findings import findings
from gdd.report.note import note
from gdd.report.paired import compare_runs
from gdd.report.runs import RunNumbers, runs_in_words
from gdd.report.spread import gather, plot_spread
from gdd.report.table import Line, cell_text, signed
from gdd.report.tables import build_table, write_table

pytestmark = pytest.mark.slow

REPEATED = """
title: Repeated
setting: digits
teachers: [digits, digits-b]
seeds: [0, 1, 2]
rows:
  Teacher: {teacher_steps: 18}
  Direct: {method: direct}
  GDD: {method: gdd}
  GDD-I: {method: gdd-i}
  Both: {method: gdd-direct}
columns: [fid, fid_difference, best_fid, best_fid_fresh, final_fid_fresh, seconds]
curve: {y: fid}
"""
# Three seeds of the first teacher, then three of the second.
FIDS = {
    "Teacher": (0.7, 0.8),
    "Direct": (1.5, 1.7, 1.6, 1.6, 1.8, 1.7),
    "GDD": (0.5, 0.6, 0.7, 0.6, 0.7, 0.8),
    "GDD-I": (0.45, 0.55, 0.65, 0.55, 0.65, 0.75),
    "Both": (1.0, 1.1, 1.2, 1.1, 1.2, 1.3),
}


@pytest.fixture(scope="module")
def experiments(make_experiments):
    return make_experiments(repeated=REPEATED)


@pytest.fixture(scope="module")
def results(experiments, write_results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repeated")
    write_results(experiments, folder, names=["repeated"], fids=FIDS)
    return folder


@pytest.fixture(scope="module")
def table(experiments, results):
    return build_table(experiments, "repeated", results)


@pytest.fixture
def found(experiments, write_results, tmp_path):
    """Return a function from changed FIDs to the findings."""

    def find(**fids):
        given = {key.replace("_", "-"): value for key, value in fids.items()}
        write_results(experiments, tmp_path, names=["repeated"], fids=FIDS | given)
        return findings([build_table(experiments, "repeated", tmp_path)], experiments)

    return find


def line(table, title):
    return next(found for found in table.lines if found.title == title)


def about(found, *words):
    matching = [finding for finding in found if all(word in finding.text for word in words)]
    assert len(matching) == 1, [finding.text for finding in found]
    return matching[0]


def test_training_spread_is_over_seeds_and_teachers(table):
    gdd = line(table, "GDD")
    assert gdd.keys == tuple((teacher, seed) for teacher in ("digits", "digits-b") for seed in range(3))
    cell = gdd.cells["fid"]
    assert cell.mean == pytest.approx(0.65)
    assert cell.training_std == pytest.approx(0.011**0.5)  # by hand: (2 * 0.0225 + 4 * 0.0025) / 5
    assert cell.sampling_std == pytest.approx(0.05)
    assert cell.runs == 6


def test_the_teachers_row_has_a_spread_over_teachers(table):
    teacher = line(table, "Teacher")
    assert teacher.keys == (("digits", None), ("digits-b", None))
    assert teacher.cells["fid"].mean == pytest.approx(0.75)
    assert teacher.cells["fid"].training_std == pytest.approx(0.005**0.5)


def test_difference_from_the_row_above(table):
    assert "fid_difference" not in line(table, "Teacher").cells
    assert "fid_difference" not in line(table, "Direct").cells  # no student above
    cell = line(table, "GDD").cells["fid_difference"]
    assert cell.mean == pytest.approx(-1.0)
    # By hand: the differences are -1, -1.1, -0.9 twice, with variance 0.04 / 5.
    assert cell.standard_error == pytest.approx((0.008 / 6) ** 0.5)
    assert (cell.training_std, cell.sampling_std) == (None, None)
    assert str(cell_text(line(table, "GDD"), "fid_difference")) == "−1.00 (SE 0.04)"
    assert cell_text(line(table, "Both"), "fid_difference").value == "+0.55"


def test_one_pair_gives_a_difference_without_uncertainty(make_experiments, write_results, tmp_path):
    text = REPEATED.replace("[digits, digits-b]", "[digits]").replace("[0, 1, 2]", "[0]")
    experiments = make_experiments(repeated=text)
    write_results(experiments, tmp_path, names=["repeated"])
    table = build_table(experiments, "repeated", tmp_path)
    assert str(cell_text(line(table, "GDD"), "fid_difference")) == "−1.00"
    assert "uncertainty is unknown" in note(table)


def test_best_and_fresh_blocks(table):
    cells = line(table, "GDD").cells
    assert cells["best_fid"].mean == pytest.approx(0.45)
    assert cells["best_fid"].sampling_std is None
    assert cells["best_fid_fresh"].mean == pytest.approx(0.60)
    assert cells["final_fid_fresh"].mean == pytest.approx(0.65)
    assert cells["best_fid_fresh"].training_std == pytest.approx(0.011**0.5)
    assert "best_fid" not in line(table, "Teacher").cells
    assert line(table, "Teacher").cells["final_fid_fresh"].mean == pytest.approx(0.75)


def test_note_names_every_spread_and_how_it_comes_about(table):
    text = note(table)
    assert "± is the sampling spread: the standard deviation over 3 blocks of 2,000 images" in text
    assert (
        "standard deviation over 6 runs: 3 seeds × 2 teachers, in the teachers' rows over 2 teachers" in text
    )
    assert "SE is the standard error of the mean" in text
    assert "(6 pairs)" in text
    assert "(lowest on block 0)" in text
    assert "fresh blocks, 2 a run" in text


def test_files_hold_every_single_run(table, tmp_path):
    paths = write_table(table, tmp_path)
    rows = {row["row"]: row for row in csv.DictReader(io.StringIO(paths[0].read_text()))}
    assert (rows["GDD"]["teachers"], rows["GDD"]["seeds"], rows["GDD"]["runs"]) == (
        "digits digits-b",
        "0 1 2",
        "6",
    )
    assert float(rows["GDD"]["fid_difference_standard_error"]) == pytest.approx((0.008 / 6) ** 0.5)
    assert (rows["Teacher"]["seeds"], rows["Teacher"]["runs"]) == ("", "2")
    run = json.loads(paths[3].read_text())["lines"][2]["runs"][4]
    assert (run["teacher"], run["seed"], run["best_images"]) == ("digits-b", 1, 16_000)
    assert run["id"] == "gdd.teacher-digits-b"
    assert run["final_fid_blocks"] == pytest.approx([0.7] * 3)
    assert run["best_fid_blocks"] == pytest.approx([0.5, 0.65, 0.65])
    assert run["best_rule"] == "lowest on block 0"
    assert run["values"]["fid"] == pytest.approx(0.7)


def test_every_pair_agrees_by_more_than_twice_the_spread(found):
    every = found()
    finding = about(every, "Direct is higher than that of GDD,")
    assert finding.kind == "holds"
    assert "1.65 against 0.65, in all 6 pairs of runs (3 seeds × 2 teachers)" in finding.text
    assert (
        "difference of 1.00 exceeds twice the pooled standard deviation over runs (2 × 0.10)" in finding.text
    )
    about(every, "6 runs per row (3 seeds × 2 teachers)")
    assert not any("One training seed" in finding.text for finding in every)
    assert not any("In FID every model" in finding.text for finding in every)


def test_the_other_way_round(found):
    every = found(Direct=FIDS["GDD"], GDD=FIDS["Direct"])
    finding = about(every, "The FID of Direct is lower than that of GDD,", "all 6 pairs")
    assert finding.kind == "turns"


def test_pairs_that_disagree_are_told(found):
    # One of six is better than its partner by a little, the rest worse by a lot.
    every = found(Direct=(0.49, 1.7, 1.6, 1.6, 1.8, 1.7))
    finding = about(every, "The FID of Direct is higher than that of GDD,", "5 of 6 pairs")
    assert finding.kind == "open"
    assert "the pairs do not agree" in finding.text


def test_a_small_difference_in_every_pair_is_open(found):
    every = found()
    finding = about(every, "Frozen layers: the FID of GDD-I is lower than that of GDD,")
    assert finding.kind == "open"
    assert "all 6 pairs" in finding.text
    assert (
        "difference of 0.05 is within twice the pooled standard deviation over runs (2 × 0.10)"
        in finding.text
    )
    assert "lr.generator (0.001 against 0.0002)" in finding.text
    better = found(GDD_I=[0.1 + 0.1 * fid for fid in FIDS["GDD"]])
    assert about(better, "Frozen layers").kind == "holds"
    assert about(found(GDD_I=FIDS["Direct"]), "Frozen layers").kind == "turns"


def test_both_losses_against_one(found):
    every = found()
    assert about(every, "Both losses together", "lower than that of Direct").kind == "holds"
    assert about(every, "Both losses together", "higher than that of GDD,").kind == "holds"
    every = found(Both=[0.1 + 0.1 * fid for fid in FIDS["GDD"]])
    assert about(every, "Both losses together", "lower than that of GDD,").kind == "turns"


def runs(teacher, *values, column="fid"):
    return [RunNumbers(teacher, seed, values={column: value}) for seed, value in enumerate(values)]


def row(*numbers):
    return Line("x", "s", "instance", {}, runs=numbers)


def test_only_common_runs_are_paired():
    first, second = row(*runs("a", 1.0, 2.0), *runs("b", 9.0)), row(*runs("a", 0.5, 1.0, 7.0))
    found = compare_runs(first, second, "fid")
    assert found.keys == (("a", 0), ("a", 1))
    assert found.difference == pytest.approx(0.75)
    assert found.standard_error == pytest.approx(0.25)  # differences 0.5 and 1: sd 0.354 / sqrt(2)
    assert found.pooled_std == pytest.approx(((0.5 + 0.125) / 2) ** 0.5)
    assert (found.worse, found.better, found.verdict) == (2, 0, "open")
    assert compare_runs(row(*runs("a", 1.0)), row(*runs("b", 1.0)), "fid") is None
    alone = compare_runs(row(*runs("a", 9.0)), row(*runs("a", 1.0)), "fid")
    assert (alone.standard_error, alone.pooled_std, alone.verdict) == (None, None, "open")


def test_worse_means_lower_where_high_is_good():
    first, second = row(*runs("a", 0.2, 0.3, column="recall")), row(*runs("a", 0.8, 0.9, column="recall"))
    assert compare_runs(first, second, "recall").verdict == "worse"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([("a", 0), ("a", 1), ("b", 0), ("b", 1)], "4 runs: 2 seeds × 2 teachers"),
        ([("a", 0), ("a", 1), ("b", 0)], "3 runs: 2 seeds and 2 teachers"),
        ([("a", 0), ("a", 1)], "2 runs: 2 seeds, one teacher"),
        ([("a", None), ("b", None)], "2 teachers"),
    ],
)
def test_runs_in_words(keys, words):
    assert runs_in_words(keys) == words


def test_signs():
    assert [signed(value, 2) for value in (-0.126, 0.126, -0.001)] == ["−0.13", "+0.13", "0.00"]


def test_curves_average_all_runs_and_keep_the_spreads_apart(experiments, results, tmp_path):
    (panel,) = gather_curves(experiments, "repeated", results)
    series = panel.curves[1][2]
    assert series.over == "6 runs: 3 seeds × 2 teachers"
    assert series.stds[-1] == pytest.approx(0.105, abs=0.03)
    assert (series.sampling_std, series.blocks) == (pytest.approx(0.05), 3)
    assert panel.teachers[0][2] == pytest.approx(0.75)
    png, _ = plot_curve(experiments, "repeated", results, tmp_path / "curve")
    with Image.open(png) as image:
        assert image.size == (1600, 920)


def test_spread_figure_shows_every_run(experiments, results, tmp_path):
    (panel,) = gather(experiments, "repeated", results)
    assert [line.title for line, _ in panel.students] == ["Direct", "GDD", "GDD-I", "Both"]
    assert panel.span() == (pytest.approx(0.45), pytest.approx(1.8))
    assert panel.floor == pytest.approx(0.28)
    png, pdf = plot_spread(experiments, "repeated", results, tmp_path / "repeated-spread")
    assert (png.name, pdf.name) == ("repeated-spread.png", "repeated-spread.pdf")
    with Image.open(png) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        assert image.size[0] == 1600
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)):
        assert (pixels == colour).all(axis=1).sum() > 100
    again, _ = plot_spread(experiments, "repeated", results, tmp_path / "again")
    assert again.read_bytes() == png.read_bytes()
