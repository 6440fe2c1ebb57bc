"""From published files to a table: fetched, imported, prepared, trained, evaluated, reported; then what others
published of the same setting, to a table beside what is reported of it.

The files are served on loopback. They are tiny, but of the formats of the real ones: CIFAR-10's tarball, a
pickle of EDM's, a TorchScript network of Inception's interface, statistics as EDM publishes them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_files import IMAGES, METRICS, Server, one_setting, write_teacher

from gdd.config.record import read_yaml

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

SETTING = "cifar10-uncond"


def test_from_published_files_to_the_table(published: Any, server: Server) -> None:
    published.snakemake("--cores", "2", "paper")
    results = published.folder / "results"

    # Real images are described as the publisher described them.
    distance = json.loads((results / "references/cifar10/inception-published.json").read_text())
    assert 0 <= distance["relative_distance"] < 1e-6
    assert distance["count"] == IMAGES

    table = json.loads((results / "tables/paper.json").read_text())
    found = {line["title"]: line for line in table["lines"] if line.get("run")}
    assert set(found) == {
        f"{method}, {at}" for method in ("GDD", "GDD-I") for at in ("5 M images", "end", "best")
    }
    metrics = json.loads((results / "runs/cifar10-uncond/gdd/seed0/metrics.json").read_text())
    shown = {title: line["cells"]["fid"]["mean"] for title, line in found.items()}
    assert shown["GDD, 5 M images"] == metrics["also_at"]["32"]["mean"]["fid"]
    assert shown["GDD, end"] == metrics["final"]["mean"]["fid"] != shown["GDD, 5 M images"]
    assert shown["GDD, best"] == metrics["best"]["mean"]["fid"]
    for part in (metrics["final"], metrics["best"], metrics["also_at"]["32"]):
        assert set(METRICS) <= part["mean"].keys()
        assert [block["start"] for block in part["blocks"]] == [0, 100]
    assert all(point.keys() == {"images", "fid"} for point in metrics["curve"])
    assert "clean-fid" in metrics["definitions"]["clean_fid"]
    assert (
        found["GDD, end"]["cells"]["inception_score"]["mean"] == metrics["final"]["mean"]["inception_score"]
    )
    assert found["GDD-I, best"]["cells"]["reported_fid"]["mean"] == 1.54
    assert "reported_fid" not in found["GDD, best"]["cells"]  # not known

    # Snapshots that no table shows are gone, which makes nothing again (see the end).
    kept = {metrics[which]["images"] for which in ("final", "best")} | {32}
    assert len(metrics["curve"]) == 4
    for place in ("snapshots", "state/snapshots"):
        found = (results / "runs/cifar10-uncond/gdd/seed0" / place).glob("*.safetensors")
        assert {int(path.stem) for path in found} == kept

    # As many images as are evaluated in the end, so the same number.
    log = [json.loads(line) for line in (results / "runs/cifar10-uncond/gdd/seed0/log.jsonl").open()]
    watched = {line["images"]: line["fid_of_100"] for line in log if line.get("event") == "measurement"}
    curve = {point["images"]: point["fid"] for point in metrics["curve"]}
    assert watched == pytest.approx(curve, rel=1e-3)

    html = (results / "site/paper.html").read_text(encoding="utf-8")
    assert "from the published one" in html
    assert "abstract of arXiv:2405.20750" in html

    # Everything was asked for once, and a second call does nothing.
    assert len(server.asked) == len(set(server.asked)) == 4
    assert published.planned("paper") == set()

    # Fetched again with equal content, nothing is stale.
    next((results / "fetched").glob("*.json")).unlink()
    published.snakemake("--cores", "2", "--until", "fetch", "paper")
    assert published.planned("paper") == set()


@pytest.fixture
def others(published: Any, tmp_path: Path) -> Any:
    """SiD's and GDD's pickles and StyleGAN-XL's images as a user has them, for the same setting."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    write_teacher(theirs / "sid.pkl")
    write_teacher(theirs / "gdd.pkl", class_name="GDDPrecond")
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
    assert not list((others.folder / "results/external").rglob("*.json"))

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
    # Too few images are refused.
    np.savez(theirs / "moved.npz", images=np.zeros((99, 32, 32, 3), np.uint8))
    (folder / "stylegan-xl" / "metrics.json").unlink()
    printed = others.snakemake(
        "--cores", "2", f"results/external/{SETTING}/stylegan-xl/metrics.json", status=1
    )
    assert "holds 99 images, but" in printed


def test_offline_everything_missing_is_listed_at_once(project: Any, server: Server) -> None:
    project.edit("local.yaml", lambda data: data.update(offline=True))
    printed = project.snakemake("--cores", "2", "all", status=1)
    assert not (project.folder / "results").exists() or not list((project.folder / "results").rglob("*.npy"))
    for name in ("afhqv2", "ffhq", "imagenet"):
        assert re.search(rf"^  {name}: a folder, \.zip or \.tar of its", printed, flags=re.MULTILINE)
    sources = read_yaml(project.folder / "config/sources.yaml")["sources"]
    needed = {name for name in sources if name.startswith("edm-") and not name.endswith("-vp")}
    needed |= {"cifar10", "inception", "clip-vit-b-32", "dinov2-vit-l-14"}
    needed |= {"vgg16-bn", "tf-efficientnet-lite0", "deit-base-distilled-patch16-224"}
    for name in needed:
        assert f"  resources/{sources[name]['path']}\n" in printed
    assert printed.count("  resources/") == len(needed)


def test_a_mistake_is_one_sentence(project: Any) -> None:
    project.edit("methods/gdd-i.yaml", lambda data: data.update(freeze="convs"))
    printed = project.snakemake("--dry-run", "demo", status=1)
    assert printed.strip().startswith("gdd: config/methods/gdd-i.yaml: 'freeze' is 'convs'")
    assert len(printed.strip().splitlines()) == 1
