from __future__ import annotations

import json
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


@pytest.fixture
def searched(make_experiments, write_results, tmp_path):
    """Return a function from FIDs to the experiments and their folder of results."""

    def make(text=SEARCH, **fids):
        experiments = make_experiments(search=text)
        write_results(experiments, tmp_path, names=["search"], fids=FIDS | fids)
        return experiments

    return make


def test_the_lowest_mean_of_every_method_is_chosen(searched):
    experiments = searched()
    gdd, direct = choices(build_table(experiments, "search"))
    assert (gdd.method, gdd.chosen.title, gdd.chosen.row.changes["lr"]) == (
        "gdd",
        "gdd, 0.0003",
        {"generator": 3e-4},
    )
    assert (gdd.edges, gdd.doubt, gdd.following) == ([], "", "next: lr.generator 0.001 with 0.61")
    assert (direct.chosen.title, direct.edges) == ("direct, 0.001", ["the largest lr.generator tried"])
    assert direct.doubt == "within the spread (2 × 0.14)"


def test_the_yaml_is_the_methods_of_a_setting(searched):
    experiments = searched()
    text = write_choice(experiments, "search")[0].read_text()
    assert (
        "gdd: {lr: {generator: 0.0003}}  # FID 0.51 (2 runs: 0.50, 0.52); next: lr.generator 0.001 with 0.61\n"
        in text
    )
    (direct,) = [row for row in text.splitlines() if row.startswith("  direct:")]
    assert direct.endswith(
        "next: lr.generator 0.0003 with 1.60, within the spread (2 × 0.14); the largest lr.generator tried"
    )
    block = yaml.safe_load(text)
    base = experiments.config.settings["digits"].model_dump(mode="json", exclude_unset=True)
    setting = parse(Setting, base | block, "here")
    assert setting.methods["gdd"].lr.generator == 3e-4


def test_the_matrix_for_reading(searched):
    experiments = searched()
    text = write_choice(experiments, "search")[1].read_text()
    assert "| Method | lr.generator 0.0001 | lr.generator 0.0003 | lr.generator 0.001 |" in text
    assert "| GDD | 0.81 (0.80, 0.82) | **0.51 (0.50, 0.52)** | 0.61 (0.60, 0.62) |" in text
    assert "2 runs: 2 seeds, one teacher" in text
    assert "- Direct imitation: next: lr.generator 0.0003 with 1.60, within the spread" in text
    assert "- GDD:" not in text
    assert len({row.count("|") for row in text.splitlines() if row.startswith("|")}) == 1


def test_a_row_that_failed_once_is_not_chosen_for_the_rest(searched):
    experiments = searched()
    path = Path("results/runs/digits/gdd.lr.generator-0.0003/seed1/metrics.json")
    metrics = json.loads(path.read_text())
    metrics["final"]["mean"]["fid"] = None
    path.write_text(json.dumps(metrics))
    gdd, _ = choices(build_table(experiments, "search"))
    assert (gdd.chosen.title, gdd.edges) == ("gdd, 0.001", ["the largest lr.generator tried"])
    text = write_choice(experiments, "search")[1].read_text()
    assert "– (0.50, none)" in text


def test_one_run_a_row_leaves_the_spread_unknown(searched):
    experiments = searched(SEARCH.replace("[0, 1]", "[0]"))
    text = write_choice(experiments, "search")[0].read_text()
    assert "# FID 0.50; next: lr.generator 0.001 with 0.60, the spread is unknown with one run a row" in text


def test_a_table_that_chooses_nothing_says_so(make_experiments, tmp_path):
    with pytest.raises(UserError, match="chooses nothing"):
        write_choice(make_experiments(), "objectives")


def test_one_setting_only(make_experiments):
    text = SEARCH.replace("setting: digits", "settings: [digits, other]")
    with pytest.raises(UserError, match="'choose' chooses for one setting"):
        make_experiments(search=text).rows("search")


def test_two_keys_are_named_and_a_method_without_any_number_says_so(
    make_experiments, write_results, tmp_path
):
    experiments = make_experiments(search=SEARCH.replace("seeds: [0, 1]", "  batch: [64, 128]\nseeds: [0]"))
    write_results(experiments, tmp_path, names=["search"])
    for path in tmp_path.glob("results/runs/digits/direct*/seed0/metrics.json"):
        metrics = json.loads(path.read_text())
        metrics["final"]["mean"]["fid"] = None
        path.write_text(json.dumps(metrics))
    yaml_file, markdown = write_choice(experiments, "search")
    assert "  # direct: no row has an FID in every run\n" in yaml_file.read_text()
    assert "| batch 64, lr.generator 0.0001 |" in markdown.read_text()
    assert "- Direct imitation: no row has an FID in every run, so none is chosen." in markdown.read_text()
