"""From published files to a table: fetched, imported, prepared, trained, judged, reported.

The files are served on loopback. They are tiny, but of the formats of the real ones: CIFAR-10's tarball, a
pickle of EDM's, a TorchScript network of Inception's interface, statistics as EDM publishes them.
"""

from __future__ import annotations

import functools
import http.server
import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from edm_writer import Foreign
from inception_stand_in import StandIn
from python2_pickle import python2

from gdd.config.architecture import Architecture
from gdd.config.record import read_yaml
from gdd.metrics.inception import InceptionExtractor
from gdd.networks.preconditioning import Denoiser
from gdd.networks.seeded import seeded_weights

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

ARCH: dict[str, Any] = {
    "model_type": "SongUNet",
    "img_resolution": 32,
    "img_channels": 3,
    "model_channels": 8,
    "channel_mult": [1, 1],
    "num_blocks": 1,
    "attn_resolutions": [],
    "augment_dim": 9,
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
TEACHER = "edm-cifar10-32x32-uncond-ve"
IMAGES = 100
PAPER_SETTINGS = ("cifar10-uncond", "cifar10-cond", "afhqv2", "ffhq", "imagenet")


class Server:
    """Serves a folder as `http://127.0.0.1:<port>/<host>/<path>`, and counts what is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                super().do_GET()

            def log_message(self, *_: Any) -> None:
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def place(self, url: str) -> Path:
        """Return the file that is served for a URL."""
        path = self.folder / (urlsplit(url).netloc + urlsplit(url).path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    served = Server(tmp_path / "served")
    yield served
    served.server.shutdown()


def write_cifar(path: Path, images: np.ndarray) -> None:
    files = {"batches.meta": python2({b"label_names": [b"class %d" % number for number in range(10)]})}
    for index, part in enumerate(np.split(images, 5), start=1):
        rows = np.ascontiguousarray(part.transpose(0, 3, 1, 2).reshape(len(part), -1))
        labels = [number % 10 for number in range(len(part))]
        files[f"data_batch_{index}"] = python2({b"data": rows, b"labels": labels})
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_teacher(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = Foreign(monkeypatch, False)
    with seeded_weights(0):
        denoiser = Denoiser(Architecture.model_validate_json(json.dumps(ARCH)))
    buffers = {name for name, _ in denoiser.named_buffers()}
    maker.write(path, maker.network(ARCH, denoiser.state_dict(), buffers))


def write_inception(path: Path) -> None:
    with seeded_weights(1):
        torch.jit.script(StandIn(3, 2, 16).eval()).save(str(path))


def write_statistics(path: Path, images: np.ndarray, inception: Path) -> None:
    features = InceptionExtractor(inception)(torch.from_numpy(images)).double().numpy()
    np.savez(path, mu=features.mean(0), sigma=np.cov(features, rowvar=False))


@pytest.fixture
def published(project: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The cut-down project with the paper's first setting alone, and what it fetches."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    urls = {
        name: of["url"] for name, of in read_yaml(project.folder / "config/sources.yaml")["sources"].items()
    }
    write_cifar(server.place(urls["cifar10"]), images)
    write_teacher(server.place(urls[TEACHER]), monkeypatch)
    write_inception(server.place(urls["inception"]))
    statistics = server.place(urls["edm-fid-ref-cifar10-32x32"])
    write_statistics(statistics, images, server.place(urls["inception"]))

    def forget_checksums(data: dict[str, Any]) -> None:
        for source in data["sources"].values():
            source.update(bytes=None, checksum=None)

    def small_setting(data: dict[str, Any]) -> None:
        data["recipe"] |= {"images": 64, "batch": 16, "snapshot_every": 16, "backbones": ["teacher-encoder"]}
        data["recipe"]["keep"] = "reported"
        data["recipe"]["heads"] = {"kind": "local", "channels": 8, "projection_channels": 8, "norm_group": 16}
        data["evaluation"]["also_at"] = [32]
        data["monitor"]["fid"] = data["evaluation"]["samples"]

    def small_table(data: dict[str, Any]) -> None:
        data["settings"] = ["cifar10-uncond"]
        for row in data["rows"].values():
            if isinstance(row.get("at"), int):
                row["at"] = 32

    project.edit("sources.yaml", forget_checksums)
    project.edit("local.yaml", lambda data: data.update(mirrors={"https://": server.url}))
    project.edit("datasets/cifar10.yaml", lambda data: data.update(images=IMAGES))
    project.edit(f"teachers/{TEACHER}.yaml", lambda data: data.update(architecture=ARCH))
    project.edit("settings/cifar10-uncond.yaml", small_setting)
    project.edit("ablations/paper.yaml", small_table)
    return project


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
    assert found["GDD-I, best"]["cells"]["reported_fid"]["mean"] == 1.54
    assert "reported_fid" not in found["GDD, best"]["cells"]  # not known

    # Snapshots that no table shows are gone, which makes nothing again (see the end).
    kept = {metrics[which]["images"] for which in ("final", "best")} | {32}
    assert len(metrics["curve"]) == 4
    for place in ("snapshots", "state/snapshots"):
        found = (results / "runs/cifar10-uncond/gdd/seed0" / place).glob("*.safetensors")
        assert {int(path.stem) for path in found} == kept

    # As many images as are judged in the end, so the same number.
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
    for note in (results / "fetched").glob("*.json"):
        note.unlink()
    published.snakemake("--cores", "2", "--until", "fetch", "paper")
    assert published.planned("paper") == set()


def test_offline_everything_missing_is_listed_at_once(project: Any, server: Server) -> None:
    project.edit("local.yaml", lambda data: data.update(offline=True))
    told = project.snakemake("--cores", "2", "all", status=1)
    assert not (project.folder / "results").exists() or not list((project.folder / "results").rglob("*.npy"))
    for name in ("afhqv2", "ffhq", "imagenet"):
        assert re.search(rf"^  {name}: a folder, \.zip or \.tar of its", told, flags=re.MULTILINE)
    sources = read_yaml(project.folder / "config/sources.yaml")["sources"]
    needed = {name for name in sources if name.startswith("edm-") and not name.endswith("-vp")}
    needed |= {"cifar10", "inception", "vgg16-bn", "tf-efficientnet-lite0", "deit-base-distilled-patch16-224"}
    for name in needed:
        assert f"  resources/{sources[name]['path']}\n" in told
    assert told.count("  resources/") == len(needed)


def test_the_whole_plan_needs_no_data(project: Any) -> None:
    told = project.snakemake("--dry-run", "all")
    for setting in PAPER_SETTINGS:
        for method in ("gdd", "gdd-i"):
            assert f"results/runs/{setting}/{method}/seed0/metrics.json" in told


def test_a_mistake_is_one_sentence(project: Any) -> None:
    project.edit("methods/gdd-i.yaml", lambda data: data.update(freeze="convs"))
    told = project.snakemake("--dry-run", "demo", status=1)
    assert told.strip().startswith("gdd: config/methods/gdd-i.yaml: 'freeze' is 'convs'")
    assert len(told.strip().splitlines()) == 1
