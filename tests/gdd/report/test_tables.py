from __future__ import annotations

import csv
import io
import json
import statistics
from pathlib import Path

import pytest

from gdd.errors import UserError
from gdd.report.note import note
from gdd.report.table import Cell, CellText, Line, cell_text
from gdd.report.table_files import latex
from gdd.report.tables import build_table, write_table


@pytest.fixture(scope="module")
def two_seeds(make_experiments, write_results, tmp_path_factory):
    results = tmp_path_factory.mktemp("two")
    experiments = make_experiments(seeds=(0, 1))
    write_results(experiments, results)
    return build_table(experiments, "demo-objectives", results)


@pytest.fixture(scope="module")
def one_block(make_experiments, write_results, tmp_path_factory):
    results = tmp_path_factory.mktemp("one")
    experiments = make_experiments()
    write_results(experiments, results, blocks=1)
    return build_table(experiments, "demo-objectives", results)


def line(table, title):
    return next(found for found in table.lines if found.title == title)


def test_mean_and_both_spreads_are_kept_apart(two_seeds):
    cell = line(two_seeds, "GDD").cells["fid"]
    seeds = [0.50, 0.50 + 0.1 * 0.5 * 0.50]
    assert cell.mean == pytest.approx(statistics.mean(seeds))
    assert cell.training_std == pytest.approx(statistics.stdev(seeds))
    assert cell.sampling_std == pytest.approx(0.05)
    assert (cell.runs, line(two_seeds, "GDD").blocks) == (2, 3)
    assert line(two_seeds, "Teacher, 18 steps").cells["fid"].training_std is None


def test_kind_comes_from_the_objective(two_seeds):
    assert [found.kind for found in two_seeds.lines] == [
        "teacher",
        "teacher",
        "instance",
        "distributional",
        "distributional",
    ]


def test_cost_and_images_are_there_without_being_columns(two_seeds):
    cells = line(two_seeds, "GDD-I").cells
    assert cells["images"].mean == 28_800
    assert cells["seconds"].mean == pytest.approx(54.4)
    assert cells["trainable"].mean == 159_000


def test_one_seed_and_one_block_have_no_spread(one_block):
    cell = line(one_block, "GDD").cells["fid"]
    assert (cell.training_std, cell.sampling_std) == (None, None)
    assert str(cell_text(line(one_block, "GDD"), "fid")) == "0.50"
    assert "sampling spread is unknown" in note(one_block)
    assert "training spread is unknown" in note(one_block)


def test_note_names_both_spreads(two_seeds):
    assert "± is the sampling spread" in note(two_seeds)
    assert "3 blocks of 2,000 images" in note(two_seeds)
    assert "[ ] is the training spread" in note(two_seeds)
    assert "over 2 runs: 2 seeds, one teacher" in note(two_seeds)


@pytest.mark.parametrize(
    ("column", "cell", "text"),
    [
        ("fid", Cell(0.314, None, 0.052), "0.31 ± 0.05"),
        ("fid", Cell(0.314, 0.11, 0.052), "0.31 ± 0.05 [0.11]"),
        ("fid", Cell(0.314, 0.11), "0.31 [0.11]"),
        ("fid", Cell(134.92, None, 0.4), "134.9 ± 0.4"),
        ("fid", Cell(1.0, None, 0.001), "1.00 ± <0.01"),
        ("recall", Cell(0.0), "0.000"),
        ("evaluations", Cell(35.0), "35"),
        ("images", Cell(28_800.0), "28,800"),
        ("seconds", Cell(53.9, 2.2), "54 [2]"),
        ("trainable", Cell(8.8e6), "8.8 M (15.6 %)"),
    ],
)
def test_a_cell_in_words(column, cell, text):
    found = Line("x", "s", "distributional", {column: cell}, parameters={"total": 56_400_000})
    assert str(cell_text(found, column)) == text


def test_a_missing_number_is_an_empty_cell():
    assert cell_text(Line("x", "s", "instance", {}), "pixel_fid") == CellText()


def test_missing_null_and_nan_leave_cells_empty(make_experiments, write_results, tmp_path):
    experiments = make_experiments()
    write_results(experiments, tmp_path)
    path = tmp_path / "runs/digits/gdd/seed0/metrics.json"
    metrics = json.loads(path.read_text())
    del metrics["final"]["mean"]["pixel_fid"]
    metrics["final"]["mean"]["recall"] = None
    metrics["final"]["mean"]["precision"] = float("nan")
    path.write_text(json.dumps(metrics))
    table = build_table(experiments, "demo-frozen-layers", tmp_path)
    paths = write_table(table, tmp_path / "tables")
    text = paths[1].read_text()
    assert "| GDD | 749 k (100.0 %) | 0.50 ± 0.05 |  |  |  | 54 |" in text
    assert not any("nan" in path.read_text().lower().split("distance")[0] for path in paths[:3])


def test_files(two_seeds, tmp_path):
    paths = write_table(two_seeds, tmp_path)
    assert [path.name for path in paths] == [f"demo-objectives.{end}" for end in ("csv", "md", "tex", "json")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    rows = list(csv.DictReader(io.StringIO(paths[0].read_text())))
    gdd = next(row for row in rows if row["row"] == "GDD")
    assert float(gdd["fid"]) == line(two_seeds, "GDD").cells["fid"].mean
    assert float(gdd["fid_sampling_std"]) == pytest.approx(0.05)
    assert float(gdd["fid_training_std"]) == line(two_seeds, "GDD").cells["fid"].training_std
    assert (gdd["images"], gdd["seeds"], gdd["evaluations"]) == ("28800", "0 1", "1")
    assert rows[0]["seconds"] == ""
    assert rows[-1]["kind"] == "floor"
    data = json.loads(paths[3].read_text())
    assert data["lines"][3]["cells"]["fid"]["sampling_std"] == pytest.approx(0.05)
    assert data["columns"][1] == {"key": "fid", "title": "FID ↓"}


def test_markdown_rows_are_all_equally_long(two_seeds, tmp_path):
    text = write_table(two_seeds, tmp_path)[1].read_text()
    assert len({row.count("|") for row in text.splitlines() if row.startswith("|")}) == 1
    assert "| Teacher, 1 step | 1 | 135.0 ± 0.4 |" in text


def test_latex_is_booktabs_and_escaped(two_seeds, tmp_path):
    text = write_table(two_seeds, tmp_path)[2].read_text()
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
    assert r"FID $\downarrow$" in text
    assert r"0.51 $\pm$ 0.05 {[}0.02]" in text
    body = [row for row in text.splitlines() if row.endswith(r"\\")]
    assert len({row.count("&") for row in body}) == 1
    assert all(ord(character) < 128 for character in text)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("15.6 %", r"15.6 \%"),
        ("a_b & {c}", r"a\_b \& \{c\}"),
        ("\\x^2~$1#", r"\textbackslash{}x\textasciicircum{}2\textasciitilde{}\$1\#"),
        ("[x] <y>", r"{[}x] $<$y$>$"),
    ],
)
def test_latex_escapes(text, escaped):
    assert latex(text) == escaped


@pytest.mark.parametrize(
    "missing",
    [
        "runs/digits/gdd/seed0/metrics.json",
        "runs/digits/gdd/seed0/run.json",
        "teachers/digits/metrics/digits-steps1.json",
    ],
)
def test_a_missing_file_is_named_with_the_target_that_makes_it(
    make_experiments, write_results, tmp_path: Path, missing
):
    experiments = make_experiments()
    write_results(experiments, tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(UserError, match=r"does not exist.*snakemake --cores 2 demo-objectives") as error:
        build_table(experiments, "demo-objectives", tmp_path)
    assert missing in str(error.value)


def test_a_run_of_another_recipe_is_refused(make_experiments, write_results, tmp_path: Path):
    experiments = make_experiments()
    write_results(experiments, tmp_path)
    path = tmp_path / "runs/digits/gdd/seed0/run.json"
    data = json.loads(path.read_text())
    data["recipe"]["batch"] = 128
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="another recipe"):
        build_table(experiments, "demo-objectives", tmp_path)
