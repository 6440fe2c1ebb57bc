"""How cells read, and the table as CSV, Markdown, LaTeX and JSON."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from gdd.config.metrics import METRICS, Metric
from gdd.report.claims import verdicts
from gdd.report.figures import plot_samples
from gdd.report.notes import runs_in_words
from gdd.report.site import write_site
from gdd.report.table import Cell, build_table
from gdd.report.table_files import CellText, cell_text, latex, write_table


@pytest.mark.parametrize(
    ("column", "mean", "spreads", "written"),
    [
        ("fid", 0.314, {"sampling_std": 0.052}, "0.31 ± 0.05"),
        ("fid", 0.314, {"training_std": 0.11, "sampling_std": 0.052}, "0.31 ± 0.05 [0.11]"),
        ("fid", 0.314, {"training_std": 0.11}, "0.31 [0.11]"),
        ("fid", 134.92, {"sampling_std": 0.4}, "134.9 ± 0.4"),
        ("fid", 1.0, {"sampling_std": 0.001}, "1.00 ± <0.01"),
        ("recall", 0.0, {}, "0.000"),
        ("evaluations", 35.0, {}, "35"),
        ("images", 28_800.0, {}, "28,800"),
        ("seconds", 53.9, {"training_std": 2.2}, "54 [2]"),
        ("trainable", 8.8e6, {}, "8.8 M (15.6 %)"),
        ("fid_difference", -0.126, {}, "−0.13"),
        ("fid_difference", -0.001, {"standard_error": 0.2}, "0.00 (SE 0.20)"),
    ],
)
def test_a_cell_in_words(column, mean, spreads, written):
    table = SimpleNamespace(cell=lambda *_: Cell(mean, **spreads))
    assert str(cell_text(table, SimpleNamespace(parameters={"total": 56_400_000}), column)) == written
    nothing = SimpleNamespace(cell=lambda *_: None)
    assert cell_text(nothing, SimpleNamespace(missing=()), column) == CellText()
    assert cell_text(nothing, SimpleNamespace(missing=["file"]), column) == CellText("–")


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


def test_files(project):
    table = build_table(project(seeds=(0, 1)), "objectives")
    paths = write_table(table)
    assert [path.name for path in paths] == [f"objectives.{end}" for end in ("csv", "md", "tex", "json")]
    rows = list(csv.DictReader(io.StringIO(paths[0].read_text())))
    gdd, cell = next(row for row in rows if row["row"] == "GDD"), table.cell(table.lines[3], "fid")
    names = {"mean": "fid", "sampling_std": "fid_sampling_std", "training_std": "fid_training_std"}
    assert {key: float(gdd[name]) for key, name in names.items()} == {
        key: getattr(cell, key) for key in names
    }
    assert (gdd["images"], gdd["seeds"], gdd["evaluations"]) == ("28800", "0 1", "1")
    assert (rows[0]["seconds"], rows[-1]["kind"]) == ("", "floor")
    data = json.loads(paths[3].read_text())
    assert data["lines"][3]["cells"]["fid"] == {**asdict(cell), "standard_error": None}
    fids = [run for run in data["lines"][3]["runs"] if run["column"] == "fid"]
    assert [(run["teacher"], run["seed"]) for run in fids] == [("digits", 0), ("digits", 1)]
    assert fids[1]["value"] == pytest.approx(0.525)
    assert data["lines"][-1]["cells"]["fid"]["mean"] == 0.28
    assert data["columns"][1] == {"key": "fid", "title": "FID ↓"}
    markdown = paths[1].read_text()
    assert len({row.count("|") for row in markdown.splitlines() if row.startswith("|")}) == 1
    assert "| Teacher, 1 step | 1 | 135.0 ± 0.4 |" in markdown
    assert markdown.endswith("- Compare with nothing elsewhere.\n")
    tex = paths[2].read_text()
    assert all(tex.count(rule) == 1 for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert r"FID $\downarrow$" in tex
    assert r"0.51 $\pm$ 0.05 {[}0.02]" in tex
    assert len({row.count("&") for row in tex.splitlines() if row.endswith(r"\\")}) == 1
    assert tex.isascii()


@pytest.mark.parametrize(
    ("plain", "escaped"),
    [
        ("15.6 %", r"15.6 \%"),
        ("a_b & {c}", r"a\_b \& \{c\}"),
        ("\\x^2~$1#", r"\textbackslash{}x\textasciicircum{}2\textasciitilde{}\$1\#"),
        ("[x] <y>", r"{[}x] $<$y$>$"),
    ],
)
def test_latex_escapes(plain, escaped):
    assert latex(plain) == escaped


def test_missing_numbers_leave_cells_empty(project, change):
    experiments = project()
    change("digits/gdd/seed0", {"pixel_fid": None, "recall": None, "precision": None})
    paths = write_table(build_table(experiments, "frozen-layers"))
    assert "| GDD | 749 k (100.0 %) | 0.50 ± 0.05 |  |  |  | 54 |" in paths[1].read_text()
    assert not any("nan" in path.read_text().lower().split("distance")[0] for path in paths)


def test_a_missing_row_is_shown_with_the_command_that_makes_it_and_the_others_are_too(project):
    experiments = project()
    folder = Path("results/runs/digits/gdd/seed0")
    (folder / "metrics.json").unlink()
    table = build_table(experiments, "objectives")
    paths = write_table(table)
    markdown, csv_rows = paths[1].read_text(), list(csv.DictReader(paths[0].open()))
    assert "| GDD | – | – | – |" in markdown
    assert "| GDD-I | 1 | 0.31 ± 0.04 |" in markdown
    command = f"snakemake --cores 2 {folder}/metrics.json"
    assert f"GDD is missing (–); make it with `{command}`." in markdown
    assert (csv_rows[3]["row"], csv_rows[3]["fid"], csv_rows[3]["blocks"]) == ("GDD", "", "")
    assert [line["missing"] for line in json.loads(paths[3].read_text())["lines"]] == [
        *[None] * 3,
        command,
        None,
        None,
    ]
    assert paths[2].read_text().isascii()
    assert [verdict.verdict for verdict in verdicts(table)] == ["undecided", "undecided"]


def test_a_new_metric_becomes_a_column(project, change, setting, monkeypatch):
    new = Metric(
        title="Sharpness", needs="features", function=len, definition="", better="higher", decimals=1
    )
    monkeypatch.setitem(METRICS, "sharpness", new)
    evaluated = setting("Sharp").replace("pixels: true", "metrics: [fid, sharpness]")
    experiments = project(
        other={"settings/sharp": evaluated},
        sharp="{title: S, setting: sharp, rows: {GDD: {method: gdd}}, columns: [fid, sharpness]}",
    )
    change("sharp/gdd/seed0", {"sharpness": 7.25})
    paths = write_table(build_table(experiments, "sharp"))
    assert "| Model | FID ↓ | Sharpness ↑ |" in paths[1].read_text()
    assert next(csv.DictReader(paths[0].open()))["sharpness"] == "7.25"
    plot_samples(experiments, "sharp")
    page = write_site(experiments, "sharp").read_text()
    assert ">Sharpness\N{NO-BREAK SPACE}↑</th>" in page
