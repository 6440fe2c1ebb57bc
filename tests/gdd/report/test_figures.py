"""Curves, spreads and samples: what is drawn from which numbers, and that it is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from gdd.errors import UserError
from gdd.report.charts import _draw_curves, curve_of, levels, lines_by_setting, plot_curve, plot_spread
from gdd.report.figures import looks, plot_samples, strip
from gdd.report.table import build_table

pytestmark = pytest.mark.slow

AGAIN = """
title: A
setting: digits
columns: [fid]
curve: pixel_fid
rows:
  Early: {method: gdd, at: 9_600}
  G: {method: gdd}
  Hinge: {method: gdd, objective: {distributional: hinge}}
"""
BOTH = """
title: B
settings: [digits, other]
columns: [fid]
curve: fid
rows: {GDD: {method: gdd}, T1: {teacher_steps: 1}}
"""
BLUE, ORANGE, GREEN = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)


@pytest.fixture(scope="module")
def folder(make_project, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    return make_project(folder, seeds=(0, 1)), folder


@pytest.fixture
def made(folder, monkeypatch):
    monkeypatch.chdir(folder[1])
    return folder[0]


def colours(path):
    with Image.open(path) as image:
        return image.size, {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}


@pytest.mark.parametrize("plot", [plot_curve, plot_spread])
def test_files(made, plot):
    png, pdf = plot(made, "objectives")
    kind = plot.__name__.removeprefix("plot_")
    assert (png.name, pdf.name) == (f"objectives-{kind}.png", f"objectives-{kind}.pdf")
    (width, _), found = colours(png)
    assert width == 1600  # 8 inches at 200 dpi
    assert {BLUE, ORANGE, GREEN} <= found
    assert pdf.read_bytes().startswith(b"%PDF")


def test_curves_are_means_over_runs_where_every_run_has_a_value(project, change):
    experiments = project(seeds=(0, 1))

    def curve():
        table = build_table(experiments, "frozen-layers")
        return curve_of(table, table.lines[0], "fid")

    files = sorted(Path("results").glob("runs/digits/gdd/*/metrics.json"))
    runs = [json.loads(file.read_text())["curve"] for file in files]
    ends = [run[-1]["fid"] for run in runs]
    assert list(curve().index) == list(range(3_200, 28_801, 3_200))
    assert curve().iloc[-1].tolist() == pytest.approx([np.mean(ends), np.std(ends, ddof=1)])
    change("digits/gdd/seed1", also_at={}, curve=runs[1][:2])
    assert list(curve().index) == [3_200, 6_400]
    change("digits/gdd/seed1", curve=[])
    assert curve().empty


def test_bars_sit_on_the_mean_over_all_blocks(made):
    table = build_table(made, "frozen-layers")
    lines = lines_by_setting(table, made.config)["digits"]
    axes = Figure().subplots()
    _draw_curves(axes, table, lines, "fid")
    bars = [bar.get_segments()[0] for of in axes.containers for bar in of.lines[2]]
    assert len(bars) == 2
    for bar, line in zip(bars, table.students(), strict=True):
        cell = table.cell(line, "fid")
        assert bar[:, 1] == pytest.approx([cell.mean - cell.sampling_std, cell.mean + cell.sampling_std])


@pytest.mark.parametrize("plot", [plot_curve, plot_spread])
def test_a_missing_row_is_left_out(project, plot):
    experiments = project(seeds=(0, 1))
    Path("results/runs/digits/gdd/seed1/metrics.json").unlink()
    found = colours(plot(experiments, "frozen-layers")[0])[1]
    assert ORANGE in found
    assert BLUE not in found


def test_two_settings_are_two_panels_and_a_level_far_off_does_not_squeeze_them(project):
    experiments = project(seeds=(0, 1), both=BOTH, fids={"T1": (9e4,)})
    for plot, height in ((plot_curve, 1760), (plot_spread, 1080)):
        png, _ = plot(experiments, "both")
        assert colours(png)[0] == (1600, height)
    table = build_table(experiments, "both")
    lines = lines_by_setting(table, experiments.config)["digits"]
    found = levels(table, lines, "fid", pd.Series([0.3, 0.6]))
    assert [(line.row.title, shown) for line, *_, shown in found] == [
        ("T1", False),
        ("Real against real (floor)", True),
    ]


@pytest.mark.parametrize(
    ("curve", "sentence"),
    [("", "asks for no curve"), ("curve: pixel_fid", "has a curve of 'pixel_fid'")],
)
def test_a_table_without_a_curve_says_so(project, change, curve, sentence):
    text = AGAIN.replace("  Early: {method: gdd, at: 9_600}\n", "").replace("curve: pixel_fid", curve)
    experiments = project(again=text)
    change("*/*/*", curve=[], also_at={})
    with pytest.raises(UserError, match=sentence):
        plot_curve(experiments, "again")


def test_a_method_keeps_its_colour_and_its_second_row_gets_dashes(project):
    experiments = project(again=AGAIN)
    objectives = looks(experiments.rows("objectives"), experiments.config)
    # Of two snapshots of one run the last is drawn.
    lines = lines_by_setting(build_table(experiments, "again"), experiments.config)["digits"]
    assert [line.row.title for line, _ in lines] == ["G", "Hinge", "Real against real (floor)"]
    first, second = (look for _, look in lines[:2])
    assert first == objectives[3]
    assert first.colour == second.colour == "#0072b2"
    assert first.dash != second.dash
    assert (first.marker, second.marker) == ("o", "s")
    assert objectives[0].colour == "#000000"


def test_sample_grid(made):
    png, pdf = plot_samples(made, "objectives")
    with Image.open(png) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape[1] == 1600
    assert 450 < pixels.shape[0] < 550
    assert len(np.unique(pixels[:, 400:])) > 100
    assert pdf.stat().st_size > 1000
    before = png.read_bytes(), pdf.read_bytes()
    assert tuple(path.read_bytes() for path in plot_samples(made, "objectives")) == before


def test_strip_enlarges_by_whole_pixels():
    images = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8, 1)
    row = strip(images)
    gap = row.shape[1] - 2 * 96
    assert row.shape[0] == 96
    assert (row[:12, :12] == images[0, 0, 0, 0]).all()
    assert (row[:12, 96 + gap : 96 + gap + 12] == images[1, 0, 0, 0]).all()
    assert (row[:, 96 : 96 + gap] == 255).all()
    assert strip(np.zeros((3, 128, 128, 3), np.uint8)).shape == (128, 3 * 128 + 2 * 10, 3)


@pytest.mark.parametrize(
    "arrays",
    [None, {"other": np.zeros(3)}, {"images": np.zeros((0, 8, 8, 1), np.uint8)}, {"images": np.zeros(4)}],
)
def test_broken_samples_are_one_sentence(project, arrays):
    experiments = project(seeds=(0,))
    path = Path("results/runs/digits/gdd-i/seed0/samples/000028800.npz")
    path.write_text("x")
    if arrays:
        np.savez(path, **arrays)
    with pytest.raises(
        UserError, match=r"gdd-i/seed0/samples/000028800\.npz .*; delete it and make it again"
    ):
        plot_samples(experiments, "frozen-layers")


def test_missing_samples_are_named(project):
    experiments = project()
    Path("results/runs/digits/gdd-i/seed0/samples/000028800.npz").unlink()
    with pytest.raises(UserError, match=r"000028800.npz does not exist.*frozen-layers"):
        plot_samples(experiments, "frozen-layers")


def test_a_title_with_a_dollar_sign_is_no_formula(make_project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = BOTH.replace("GDD: {", "'$\\frac{$': {").replace("T1: {", "'$x$': {")
    experiments = make_project(tmp_path, both=table)
    for plot in (plot_curve, plot_spread, plot_samples):
        assert all(path.is_file() for path in plot(experiments, "both"))
