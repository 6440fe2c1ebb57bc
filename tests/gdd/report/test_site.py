"""The page of a target: its content, its structure, and what a real browser makes of it."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from gdd.errors import UserError
from gdd.report.charts import plot_curve
from gdd.report.figures import plot_samples
from gdd.report.site import write_site
from gdd.report.table import build_table
from gdd.report.table_files import write_table

pytestmark = pytest.mark.slow

VOID = {"meta", "link", "img", "br", "hr", "input"}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"


class Page(HTMLParser):
    """Checks that tags nest and collects what the tests look at."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.text = [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for key, value in attributes if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def made(make_project, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    experiments = make_project(folder)
    with contextlib.chdir(folder):
        for name in ("objectives", "frozen-layers"):
            write_table(build_table(experiments, name))
            plot_curve(experiments, name)
            plot_samples(experiments, name)
        write_site(experiments, "demo")
    return experiments, folder / "results"


@pytest.fixture(scope="module")
def page(made):
    return Page((made[1] / "site/index.html").read_text())


def test_the_page_is_whole_and_loads_nothing(made, page):
    text = (made[1] / "site/index.html").read_text()
    assert page.open == []  # every tag is closed
    assert len(set(page.ids)) == len(page.ids)
    assert not re.search(r"https?://", text)
    assert not page.all("script")
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))


def test_links_lead_somewhere(made, page):
    links = [a["href"] for a in page.all("a")]
    local = [link for link in links if link.startswith("#")]
    files = [link for link in links if not link.startswith("#")]
    assert {link[1:] for link in local} <= set(page.ids)
    assert {"../tables/objectives.csv", "../figures/frozen-layers-curve.pdf"} <= set(files)
    assert all((made[1] / "site" / link).is_file() for link in files)


def test_images_and_tables_can_be_read_out(page):
    assert len(page.all("img")) == 4
    assert all(len(image["alt"]) > 20 for image in page.all("img"))
    assert any("GDD-I 0.31" in image["alt"] for image in page.all("img"))
    assert len(page.all("table")) == len(page.all("caption")) == 2
    assert {cell.get("scope") for cell in page.all("th")} == {"col", "row"}


def test_content(page):
    text = " ".join(page.text.split())
    for words in (
        "One-step generators in miniature",
        "GDD and GDD-I have a lower FID than Direct imitation. GDD: 0.50; Direct imitation: 1.50;",
        "proves nothing about the methods",
        "Compare with nothing elsewhere.",
        "0.31 ± 0.04",
        "± is the sampling spread",
        "on <features>",  # escaped in the source, whole for the reader
        "snakemake --cores 2 frozen-layers",
        hashlib.sha256(b"digits").hexdigest(),  # of the teacher's weights
        hashlib.sha256(b"reference of pixels").hexdigest(),
        "gdd evaluate run digits gdd --seed 0",
        "gdd evaluate teacher digits digits --steps 18",
        "2026-01-31",
        "c" * 40,
        "d" * 40,
        "half_life: 5000",
        "749,000",
        "612 MiB",
    ):
        assert words in text, words
    assert "None" not in text
    assert "nan" not in text.lower().split()


def test_a_single_table_is_a_target_too_and_a_missing_figure_is_named(made, monkeypatch):
    experiments, results = made
    monkeypatch.chdir(results.parent)
    out = write_site(experiments, "frozen-layers")
    before = out.read_bytes()
    assert len(Page(before.decode()).all("table")) == 1
    figure = results / "figures/frozen-layers-samples.png"
    moved = figure.rename(figure.with_suffix(".away"))
    try:
        with pytest.raises(UserError, match=r"samples.png does not exist.*snakemake --cores 2 frozen"):
            write_site(experiments, "frozen-layers")
    finally:
        moved.rename(figure)
    assert out.read_bytes() == before


def test_the_report_needs_no_torch():
    code = (
        "import sys; import gdd.report.site, gdd.report.choice; matplotlib = 'matplotlib' in sys.modules; "
        "import gdd.report.charts; sys.exit(matplotlib or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def browse(tmp_path, *arguments):
    if BROWSER is None:
        pytest.skip("no chromium on this machine")
    command = [BROWSER, *QUIET.split(), f"--user-data-dir={tmp_path / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.browser
def test_the_browser_reads_the_whole_page_without_a_network(made, tmp_path):
    # Every name is resolved to nowhere: a page that needed the network would show gaps.
    index = (made[1] / "site/index.html").as_uri()
    done = browse(tmp_path, "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", index)
    for text in ("Claims", "Direct imitation", "GDD-I", "Real against real"):
        assert text in done.stdout
    assert done.stdout.count("<table") >= 2


@pytest.mark.browser
@pytest.mark.parametrize("width", [500, 1200])
def test_it_is_drawn_and_nothing_sticks_out(made, tmp_path, width):
    shot, index = tmp_path / "page.png", (made[1] / "site/index.html").as_uri()
    browse(tmp_path, "--hide-scrollbars", f"--window-size={width},4000", f"--screenshot={shot}", index)
    pixels = np.asarray(Image.open(shot).convert("L"))
    assert pixels.shape[1] == width
    assert pixels.std() > 10
    # A line wider than the window would put ink into its last columns.
    margin = pixels[:, -4:]
    assert (margin == margin[0, 0]).all()
