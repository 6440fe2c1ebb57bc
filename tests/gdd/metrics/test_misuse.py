"""Misuse of `gdd evaluate` ends in one sentence and the status of bad input, before anything is written."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inception_stand_in import StandIn

from gdd.metrics.by_name import make_extractor
from gdd.metrics.image_sets import open_image_set
from gdd.metrics.reference import build_reference
from gdd.networks.checkpoint import one_step_from_denoiser, save_network
from gdd.networks.seeded import seeded_weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a person may have lying about: images of all kinds, generators, two networks that judge."""
    folder = tmp_path_factory.mktemp("misuse")
    save_network(folder / "g.safetensors", one_step_from_denoiser(world.teachers[False]), dataset="blobs")
    for seed, name in enumerate(("net", "other")):
        with seeded_weights(seed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.script(StandIn(2, 2, 11).eval()).save(folder / f"{name}.pt")
    random = np.random.default_rng(0)
    real = random.integers(0, 256, (100, 8, 8, 3), dtype=np.uint8)
    broken = random.random((100, 8, 8, 3), dtype=np.float32)
    images = {"real": real, "ten": np.tile(real, (100, 1, 1, 1)), "large": real.repeat(2, 1).repeat(2, 2)}
    images |= {"floats": broken.copy()}
    broken[3] = np.nan
    images |= {"broken": broken}
    for name, array in images.items():
        np.savez(folder / f"{name}.npz", images=array)
    found = open_image_set(folder / "real.npz")
    extractor = make_extractor(folder / "net.pt", found, "inception")
    for name in ("blobs", "faces"):
        path = folder / name / "inception.npz"
        build_reference(real, extractor, dataset=name, dataset_sha256=found.sha256, path=path)
    (folder / "resources" / "metrics").mkdir(parents=True)
    (folder / "resources" / "metrics" / "inception-2015-12-05.pt").write_bytes(b"another network")
    return folder


OWN = ["--extractor", "inception=net.pt", "--samples", "40", "--blocks", "1"]
MISUSE = {
    "too few samples": ("ten.npz", "blobs", OWN[:2], "holds 10,000 images instead of the usual 50,000"),
    "floats": ("floats.npz", "blobs", OWN, "holds float32 images from .* save uint8 images"),
    "resolution": ("large.npz", "blobs", OWN, "is at resolution 8, the images at 16"),
    "data set": ("g.safetensors", "faces", OWN, "of the data set faces, the images are of blobs"),
    "NaN": ("broken.npz", "blobs", OWN, "holds images with NaN or infinity"),
    "extractor": ("g.safetensors", "blobs", [*OWN[2:], "--config", "config"], "is not the expected file"),
    "another extractor": (
        "g.safetensors",
        "blobs",
        ["--extractor", "inception=other.pt", *OWN[2:]],
        "not by",
    ),
}


@pytest.mark.parametrize(("images", "reference", "options", "sentence"), MISUSE.values(), ids=MISUSE)
def test_one_sentence(folder: Path, images: str, reference: str, options: list[str], sentence: str) -> None:
    if "--config" in options:
        options = [*options[:-1], str(Path("config").resolve())]
    command = [sys.executable, "-m", "gdd", "evaluate", "--generator", images, "--reference", reference]
    done = subprocess.run(
        [*command, *options, "--out", "out.json"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    (told,) = done.stderr.splitlines()
    assert told.startswith("gdd: ")
    assert re.search(sentence, told), told
    assert not list(folder.glob("out*"))
