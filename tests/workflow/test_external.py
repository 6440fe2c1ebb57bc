"""What others published, from their files to a table beside what is reported of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_files import METRICS, one_setting, write_teacher

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

SETTING = "cifar10-uncond"


@pytest.fixture
def others(published: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """SiD's and GDD's pickles and StyleGAN-XL's images as a user has them, for one setting."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    write_teacher(theirs / "sid.pkl", monkeypatch)
    write_teacher(theirs / "gdd.pkl", monkeypatch, class_name="GDDPrecond")
    images = np.random.default_rng(1).integers(0, 256, (250, 32, 32, 3), dtype=np.uint8)
    np.savez(theirs / "samples.npz", arr_0=images)
    published.edit("ablations/external.yaml", one_setting)
    published.edit(
        "external/stylegan-xl.yaml",
        lambda data: data["settings"].update({SETTING: {"where": "its repository"}}),
    )
    return published


def say_where(project: Any, **files: Path) -> None:
    where = {name.replace("_", "-"): {SETTING: str(path)} for name, path in files.items()}
    project.edit("local.yaml", lambda data: data.update(external=where))


def test_from_others_files_to_the_table(others: Any, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    # All that is missing is listed at once, before any job.
    say_where(others, sid=theirs / "sid.pkl", gdd_release=theirs / "nowhere.pkl")
    printed = others.snakemake("--cores", "2", "external", status=1)
    heading = "Published by others: in config/local.yaml, `external` has to say where each lies."
    assert printed.count(heading) == 1
    assert (
        f"  gdd-release: {SETTING}: {theirs}/nowhere.pkl does not exist; expected is its network (" in printed
    )
    assert f"  stylegan-xl: {SETTING}: its images as an .npz, a folder, a .zip or a .tar (its rep" in printed
    assert f"  sid: {SETTING}" not in printed
    assert not list((others.folder / "results").rglob("*.npz"))

    files = {"sid": theirs / "sid.pkl", "gdd_release": theirs / "gdd.pkl"}
    say_where(others, **files, stylegan_xl=theirs / "samples.npz")
    others.snakemake("--cores", "2", "external")
    results = others.folder / "results"
    folder = results / "external" / SETTING
    table = json.loads((results / "tables/external.json").read_text())
    lines = {line["title"]: line for line in table["lines"]}
    assert list(lines) == [
        "EDM teacher",
        "SiD",
        "GDD, as released",
        "StyleGAN-XL",
        "Real against real (floor)",
    ]
    for title, name in (("SiD", "sid"), ("GDD, as released", "gdd-release"), ("StyleGAN-XL", "stylegan-xl")):
        metrics = json.loads((folder / name / "metrics.json").read_text())
        cells, blocks = lines[title]["cells"], metrics["final"]["blocks"]
        assert set(METRICS) <= metrics["final"]["mean"].keys()
        assert metrics["kind"] == "external"
        assert [block["start"] for block in blocks] == [0, 100]
        assert cells["fid"]["mean"] == metrics["final"]["mean"]["fid"]
        assert cells["fid"]["sampling_std"] > 0
        assert cells["fid_minimum"]["mean"] == min(block["fid"] for block in blocks)
        assert cells["evaluations"]["mean"] == 1
        assert lines[title]["kind"] == "external"
    assert lines["SiD"]["cells"]["reported_fid"]["mean"] == 1.923
    assert lines["SiD"]["cells"]["reported_clip_fid"]["mean"] == 0.65
    assert "reported_fid" not in lines["StyleGAN-XL"]["cells"]  # of another setting
    # The same weights start elsewhere: SiD from noise at 2.5.
    assert lines["SiD"]["cells"]["fid"]["mean"] != lines["GDD, as released"]["cells"]["fid"]["mean"]
    html = (results / "site/external.html").read_text(encoding="utf-8")
    assert "README of SiD" in html
    assert "published by others" in html
    assert others.planned("external") == set()

    # Where a file lies is no reason to evaluate it again.
    (theirs / "samples.npz").rename(theirs / "moved.npz")
    say_where(others, **files, stylegan_xl=theirs / "moved.npz")
    assert others.planned("external") == set()
    # More blocks are evaluated without the ones that are done.
    kept = (folder / "stylegan-xl" / "metrics.block0.json").read_bytes()
    (folder / "stylegan-xl" / "metrics.json").unlink()
    others.snakemake("--cores", "2", f"results/external/{SETTING}/stylegan-xl/metrics.json")
    assert (folder / "stylegan-xl" / "metrics.block0.json").read_bytes() == kept
    # Too few images are refused.
    np.savez(theirs / "moved.npz", images=np.zeros((99, 32, 32, 3), np.uint8))
    (folder / "stylegan-xl" / "metrics.json").unlink()
    printed = others.snakemake(
        "--cores", "2", f"results/external/{SETTING}/stylegan-xl/metrics.json", status=1
    )
    assert "holds 99 images, but" in printed
