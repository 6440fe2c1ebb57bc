"""The page in a real browser."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from gdd.report.curves import plot_curve
from gdd.report.samples import plot_samples
from gdd.report.site import write_site
from gdd.report.table import build_table
from gdd.report.table_files import write_table

pytestmark = pytest.mark.browser

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]


def browse(tmp_path, *arguments):
    if BROWSER is None:
        pytest.skip("no chromium on this machine")
    command = [BROWSER, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.fixture(scope="module")
def index(make_experiments, write_results, tmp_path_factory):
    results = tmp_path_factory.mktemp("browser") / "results"
    experiments = make_experiments()
    write_results(experiments, results)
    for name in ("objectives", "frozen-layers"):
        write_table(build_table(experiments, name, results), results / "tables")
        plot_curve(experiments, name, results, results / "figures" / f"{name}-curve")
        plot_samples(experiments, name, results, results / "figures" / f"{name}-samples")
    return write_site(experiments, "demo", results, results / "site" / "index.html")


def test_the_browser_reads_the_whole_page_without_a_network(index, tmp_path):
    # Every name is resolved to nowhere: a page that needed the network would show gaps.
    done = browse(tmp_path, "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", index.as_uri())
    for text in ("Claims", "Direct imitation", "GDD-I", "Real against real"):
        assert text in done.stdout
    assert done.stdout.count("<table") >= 2


@pytest.mark.parametrize("width", [500, 1200])
def test_it_is_drawn_and_nothing_sticks_out(index, tmp_path, width):
    shot = tmp_path / "page.png"
    browse(tmp_path, f"--window-size={width},4000", f"--screenshot={shot}", index.as_uri())
    pixels = np.asarray(Image.open(shot).convert("L"))
    assert pixels.shape[1] == width
    assert pixels.std() > 10
    # A line wider than the window would put ink into its last columns.
    margin = pixels[:, -4:]
    assert (margin == margin[0, 0]).all()
