from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from gdd.errors import UserError
from gdd.report.curves import gather, plot_curve
from gdd.report.labels import spread_out
from gdd.report.samples import plot_samples, strip
from gdd.report.style import COLUMNS, looks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(make_experiments, write_results, tmp_path_factory):
    results = tmp_path_factory.mktemp("figures")
    experiments = make_experiments(
        seeds=(0, 1),
        plain="title: P\nsetting: digits\nrows: {G: {method: gdd}}\ncolumns: [fid]",
        again=(
            "title: A\nsetting: digits\ncolumns: [fid]\ncurve: {y: pixel_fid}\n"
            "rows: {G: {method: gdd}, Hinge: {method: gdd, objective: {distributional: hinge}}}"
        ),
    )
    write_results(experiments, results, names=["demo-objectives", "again"])
    return experiments, results


def test_every_column_has_a_style():
    from gdd.config.metrics import columns

    assert set(COLUMNS) == set(columns())


def test_curve_files(made, tmp_path):
    png, pdf = plot_curve(made[0], "demo-objectives", made[1], tmp_path / "v1.5-curve")
    assert (png.name, pdf.name) == ("v1.5-curve.png", "v1.5-curve.pdf")
    with Image.open(png) as image:
        assert image.size == (1600, 920)  # 8 by 4.6 inches at 200 dpi
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)} <= colours
    assert pdf.read_bytes().startswith(b"%PDF")
    again, _ = plot_curve(made[0], "demo-objectives", made[1], tmp_path / "again")
    assert again.read_bytes() == png.read_bytes()


def test_curve_data(made):
    (panel,) = gather(made[0], "demo-objectives", made[1])
    assert [name for name, _, _ in panel.curves] == ["Direct imitation", "GDD", "GDD-I"]
    series = panel.curves[0][2]
    assert series.images == list(range(3_200, 28_801, 3_200))
    assert series.stds is not None
    assert panel.floor == pytest.approx(0.28)
    assert [(name, panel.shown(value)) for name, _, value in panel.teachers] == [
        ("Teacher, 18 steps", True),
        ("Teacher, 1 step", True),
    ]
    assert not panel.shown(10_000)


def test_curve_means_come_from_counts_that_every_seed_has(make_experiments, write_results, tmp_path):
    experiments = make_experiments(seeds=(0, 1))
    write_results(experiments, tmp_path, names=["demo-frozen-layers"])
    path = tmp_path / "runs/digits/gdd/seed1/metrics.json"
    metrics = json.loads(path.read_text())
    metrics["curve"] = metrics["curve"][:2]
    path.write_text(json.dumps(metrics))
    (panel,) = gather(experiments, "demo-frozen-layers", tmp_path)
    assert panel.curves[0][2].images == [3_200, 6_400]


def test_two_settings_are_two_panels_and_what_is_off_the_scale_is_told(
    make_experiments, write_results, tmp_path
):
    experiments = make_experiments(
        both=(
            "title: B\nsettings: [digits, other]\ncolumns: [fid]\ncurve: {y: fid}\n"
            "rows: {GDD: {method: gdd}, T1: {teacher_steps: 1}}"
        )
    )
    write_results(experiments, tmp_path, names=["both"], numbers={"steps1": (9e4, 0, 0, 0, 0, 0, 1, 1)})
    panels = gather(experiments, "both", tmp_path)
    assert [panel.title for panel in panels] == ["Digits 8x8", "Other digits"]
    assert not any(panel.shown(value) for panel in panels for _, _, value in panel.teachers)
    png, _ = plot_curve(experiments, "both", tmp_path, tmp_path / "curve")
    with Image.open(png) as image:
        assert image.size == (1600, 1840)
    png, _ = plot_samples(experiments, "both", tmp_path, tmp_path / "grid")
    assert png.stat().st_size > 5_000


def test_a_table_without_a_curve_says_so(made, tmp_path):
    with pytest.raises(UserError, match="asks for no curve"):
        plot_curve(made[0], "plain", made[1], tmp_path / "curve")


def test_a_method_keeps_its_colour_and_its_second_row_gets_dashes(made):
    experiments, _ = made
    objectives = looks(experiments.rows("demo-objectives"), experiments.config)
    first, second = looks(experiments.rows("again"), experiments.config)
    assert first == objectives[3]
    assert first.colour == second.colour == "#0072b2"
    assert first.dash != second.dash
    assert (first.marker, second.marker) == ("o", "s")
    assert objectives[0].colour == "#000000"


def test_labels_do_not_overlap_and_stay_inside():
    rng = np.random.default_rng(0)
    for count in (1, 2, 6, 12):
        wanted = sorted(rng.random(count) ** 3)
        sizes = [0.06] * count
        placed = spread_out(wanted, sizes)
        assert all(b - a >= 0.06 - 1e-9 for a, b in pairwise(placed))
        assert placed[0] >= -0.05
        assert placed[-1] <= 1.05
    assert spread_out([0.1, 0.9], [0.06, 0.06]) == pytest.approx([0.1, 0.9])


def test_sample_grid(made, tmp_path):
    png, pdf = plot_samples(made[0], "demo-objectives", made[1], tmp_path / "grid")
    with Image.open(png) as image:
        pixels = np.asarray(image.convert("L"))
        assert image.size[0] == 1600
        assert 450 < image.size[1] < 550
    assert len(np.unique(pixels[:, 400:])) > 100
    assert pdf.stat().st_size > 1000


def test_strip_enlarges_by_whole_pixels():
    images = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8, 1)
    row = strip(images)
    gap = row.shape[1] - 2 * 96
    assert row.shape[0] == 96
    assert (row[:12, :12] == images[0, 0, 0, 0]).all()
    assert (row[:12, 96 + gap : 96 + gap + 12] == images[1, 0, 0, 0]).all()
    assert strip(np.zeros((3, 128, 128, 3), np.uint8)).shape == (128, 3 * 128 + 2 * 10, 3)


def test_missing_or_foreign_samples_are_named(make_experiments, write_results, tmp_path):
    experiments = make_experiments()
    write_results(experiments, tmp_path, names=["demo-frozen-layers"])
    path = tmp_path / "runs/digits/gdd-i/seed0/samples/000028800.npz"
    np.savez(path, images=np.zeros((64, 8, 8, 1), np.float32))
    with pytest.raises(UserError, match="not uint8 images"):
        plot_samples(experiments, "demo-frozen-layers", tmp_path, tmp_path / "grid")
    path.unlink()
    with pytest.raises(UserError, match=r"000028800.npz does not exist.*demo-frozen-layers"):
        plot_samples(experiments, "demo-frozen-layers", tmp_path, tmp_path / "grid")
