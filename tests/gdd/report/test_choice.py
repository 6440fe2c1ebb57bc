"""What a search chooses, for a setting's file and for reading."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gdd.config.record import parse
from gdd.config.records import Setting
from gdd.errors import UserError
from gdd.report.choice import choices, write_choice
from gdd.report.table import build_table

SEARCH = """
title: Rates
setting: digits
grid:
  method: [gdd, direct]
  lr.generator: [1e-4, 3e-4, 1e-3]
seeds: [0, 1]
columns: [fid]
choose: true
"""
# By hand: in the middle and clear; at the edge, and within the spread of the next (variances 0.02 and 0.02).
FIDS = {
    "gdd, 0.0001": (0.80, 0.82),
    "gdd, 0.0003": (0.50, 0.52),
    "gdd, 0.001": (0.60, 0.62),
    "direct, 0.0001": (1.9, 2.1),
    "direct, 0.0003": (1.5, 1.7),
    "direct, 0.001": (1.4, 1.6),
}


def written(experiments):
    return [path.read_text() for path in write_choice(experiments, "search")]


def test_the_lowest_mean_of_every_method_is_chosen(project):
    gdd, direct = choices(build_table(project(search=SEARCH, fids=FIDS), "search"))
    assert (gdd.method, gdd.chosen.row.title) == ("gdd", "gdd, 0.0003")
    assert gdd.chosen.row.changes["lr"] == {"generator": 3e-4}
    assert (gdd.edges, gdd.doubt, gdd.following) == ([], "", "next: lr.generator 0.001 with 0.61")
    assert (direct.chosen.row.title, direct.edges) == ("direct, 0.001", ["the largest lr.generator tried"])
    assert direct.doubt == "within the spread (2 × 0.14)"


def test_the_yaml_is_the_methods_of_a_setting_and_the_matrix_for_reading(project):
    experiments = project(search=SEARCH, fids=FIDS)
    text, markdown = written(experiments)
    chosen = "gdd: {lr: {generator: 0.0003}}  # FID 0.51 (2 runs: 0.50, 0.52); next: lr.generator 0.001 with 0.61\n"
    assert chosen in text
    (direct,) = [row for row in text.splitlines() if row.startswith("  direct:")]
    assert direct.endswith(
        "next: lr.generator 0.0003 with 1.60, within the spread (2 × 0.14); the largest lr.generator tried"
    )
    base = experiments.config.settings["digits"].model_dump(mode="json", exclude_unset=True)
    setting = parse(Setting, base | yaml.safe_load(text), "here")
    assert setting.methods["gdd"].lr.generator == 3e-4

    assert "| Method | lr.generator 0.0001 | lr.generator 0.0003 | lr.generator 0.001 |" in markdown
    assert "| GDD | 0.81 (0.80, 0.82) | **0.51 (0.50, 0.52)** | 0.61 (0.60, 0.62) |" in markdown
    assert "2 runs: 2 seeds, one teacher" in markdown
    assert "- Direct imitation: next: lr.generator 0.0003 with 1.60, within the spread" in markdown
    assert "- GDD:" not in markdown
    assert len({row.count("|") for row in markdown.splitlines() if row.startswith("|")}) == 1


def test_a_row_that_failed_once_is_not_chosen_for_the_rest(project, change):
    experiments = project(search=SEARCH, fids=FIDS)
    change("digits/gdd.lr.generator-0.0003/seed1", {"fid": None})
    gdd, _ = choices(build_table(experiments, "search"))
    assert (gdd.chosen.row.title, gdd.edges) == ("gdd, 0.001", ["the largest lr.generator tried"])
    assert "– (0.50, none)" in written(experiments)[1]


def test_a_missing_row_is_not_chosen(project):
    experiments = project(search=SEARCH, fids=FIDS)
    Path("results/runs/digits/gdd.lr.generator-0.0003/seed1/metrics.json").unlink()
    gdd, _ = choices(build_table(experiments, "search"))
    assert gdd.chosen.row.title == "gdd, 0.001"
    assert "– (none, none)" in written(experiments)[1]


def test_one_run_a_row_leaves_the_spread_unknown(project):
    text, _ = written(project(search=SEARCH.replace("[0, 1]", "[0]"), fids=FIDS))
    assert "# FID 0.50; next: lr.generator 0.001 with 0.60, the spread is unknown with one run a row" in text


def test_two_keys_are_named_and_a_method_without_any_number_says_so(project, change):
    experiments = project(search=SEARCH.replace("seeds: [0, 1]", "  batch: [64, 128]\nseeds: [0]"))
    change("digits/direct*/seed0", {"fid": None})
    text, markdown = written(experiments)
    assert "  # direct: no row has an FID in every run\n" in text
    assert "| batch 64, lr.generator 0.0001 |" in markdown
    assert "- Direct imitation: no row has an FID in every run, so none is chosen." in markdown


def test_a_table_that_chooses_nothing_says_so(project):
    with pytest.raises(UserError, match=r"objectives.yaml chooses nothing; add `choose:"):
        write_choice(project(), "objectives")
    with pytest.raises(UserError, match="'choose' chooses for one setting"):
        project(search=SEARCH.replace("setting: digits", "settings: [digits, other]"))
