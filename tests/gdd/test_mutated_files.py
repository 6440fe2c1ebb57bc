"""Files that others made, with a few wrong bytes: each is read, or refused in one sentence, soon and in little memory."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inception_stand_in import StandIn, save_script
from mutations import told
from PIL import Image
from python2_pickle import python2
from torch import nn

from gdd.adversary.published_weights import load_class_embedding
from gdd.config.records import Dataset
from gdd.data.cifar10 import BINARY, read_cifar10
from gdd.data.image_array import ImageArray, write
from gdd.data.prepare import prepare
from gdd.diffusion.sampler import load_pairs
from gdd.files import sha256
from gdd.foreign.read import read_foreign
from gdd.metrics.build_reference import build_reference
from gdd.metrics.extractors import PixelExtractor
from gdd.metrics.inception import InceptionExtractor
from gdd.metrics.reference import load_reference
from gdd.metrics.sources import open_source
from gdd.networks.checkpoint import load_denoiser, load_generator, save_network
from gdd.networks.classifier import load_classifier
from gdd.networks.edm_import import import_network
from gdd.networks.preconditioning import OneStepGenerator

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory is measured through /proc"),
    pytest.mark.slow,
]

RNG = np.random.default_rng(0)
Case = tuple[Callable[[], Any], list[Path]]


def pictures() -> dict[str, bytes]:
    """Two images of every format, in two folders."""
    rng, files = np.random.default_rng(0), {}
    for index, kind in enumerate(("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM") * 2):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, kind)
        files[f"{'ab'[index % 2]}/{index}.{kind.lower()}"] = buffer.getvalue()
    return files


def in_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def in_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def in_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def prepared(raw: Path, folder: Path, **changes: Any) -> Callable[[], Any]:
    """Return what makes a data set of images, into a folder of its own each time."""
    values = {"title": "T", "source": "folder", "transform": "resize", "resolution": 8, "channels": 3}
    record = Dataset(**(values | {"images": 14, "classes": 2} | changes))

    def read() -> None:
        shutil.rmtree(folder / "data", ignore_errors=True)
        prepare(folder / "data", "data", record, raw)

    return read


def cifar(form: str, folder: Path) -> Case:
    planes, labels = RNG.integers(0, 256, (2, 3072), dtype=np.uint8), [0, 1]
    if form == "pickles":
        batch = python2({b"labels": labels, b"data": planes})
        files = {f"data_batch_{number}": batch for number in range(1, 6)}
        files["batches.meta"] = python2({b"label_names": [b"cat", b"dog"]})
        raw = in_folder(folder / "raw", files)
        return lambda: read_cifar10(raw), [raw / "data_batch_1", raw / "batches.meta"]
    records = np.concatenate([np.array([labels], np.uint8).T, planes], axis=1).tobytes()
    files = {name: b"cat\ndog\n" if name == BINARY[-1] else records for name in BINARY}
    raw = in_tar(folder / "raw", files, "w:gz" if form == "tar.gz" else "w")
    return lambda: read_cifar10(raw), [raw]


def images(form: str, folder: Path) -> Case:
    files = pictures()
    if form == "folder":
        raw = in_folder(folder / "raw", files)
        return prepared(raw, folder), [raw / name for name in files]
    if form == "EDM's zip":
        pngs = {name: content for name, content in files.items() if name.endswith(".png")}
        labels = json.dumps({"labels": [[name, index] for index, name in enumerate(pngs)]})
        raw = in_zip(folder / "raw.zip", {**pngs, "dataset.json": labels.encode()}, zipfile.ZIP_STORED)
        return prepared(raw, folder, images=2), [raw]
    if form == "zip":
        raw = in_zip(folder / "raw.zip", files)
    else:
        inner = in_tar(folder / "b.tar", {"1.png": files["a/0.png"]})
        raw = in_tar(folder / "raw.tar", {**files, "b.tar": inner.read_bytes()})
    if form.endswith("to be evaluated"):
        return lambda: open_source(raw).images(0, 2), [raw]
    return prepared(raw, folder, images=14 + (form == "tar")), [raw]


def arrays(form: str, folder: Path) -> Case:
    values = RNG.integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
    if form == "a data set":
        write(folder / "data", values, np.arange(12) % 2, {"name": "noise"})
        names = ("images.npy", "labels.npy", "dataset.json")
        return lambda: opened(folder / "data"), [folder / "data" / name for name in names]
    path = folder / "file.npz"
    if form == "images":
        np.savez_compressed(path, images=values)
        return lambda: open_source(path).images(0, 2), [path]
    if form == "a reference":
        extractor = PixelExtractor((3, 4, 4))
        build_reference(
            np.concatenate([values] * 10), extractor, dataset="d", dataset_sha256="b" * 64, path=path
        )
    else:
        np.savez(path, mu=np.zeros(8), sigma=np.eye(8))
    return lambda: load_reference(path), [path]


def opened(folder: Path) -> None:
    """Do with a data set what a training does."""
    array = ImageArray.open(folder)
    array.content_hash()
    assert array.sha256 is not None
    assert array.shape


def networks(form: str, folder: Path, toy: Any, tiny: Path) -> Case:
    if form == "EDM's pickle":
        return lambda: import_network(tiny, folder / "out.safetensors"), [tiny]
    if form == "class embeddings":
        real = Path(__file__).resolve().parents[3] / "shared/real/stylegan-xl-tf_efficientnet_lite0.pkl"
        if not real.is_file():
            pytest.skip("the published class embeddings are not part of this checkout")
        path = shutil.copy(real, folder / "embeddings.pkl")
        return lambda: load_class_embedding(path, 10), [path]
    readers: dict[str, tuple[Path, Callable[[Path], Any]]] = {
        "a teacher": (toy.teachers[True], load_denoiser),
        "a classifier": (toy.backbones["one"], load_classifier),
        "pairs": (toy.pairs[True], load_pairs),
    }
    path = folder / "net.safetensors"
    if form == "a generator":
        save_network(path, OneStepGenerator(toy.arch().for_one_step(), 2))
        return lambda: load_generator(path), [path]
    source, read = readers[form]
    shutil.copy(source, path)
    return lambda: read(path), [path]


def scripts(form: str, folder: Path) -> Case:
    path = folder / "file.pth"
    if form == "as data":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.Conv2d(1, 2, 3))).save(path)
        return lambda: read_foreign(path, "archive"), [path]
    save_script(StandIn(2, 2, 2), path)
    known = sha256(path)
    return lambda: InceptionExtractor(path, trusted=[known]), [path]


@pytest.mark.parametrize("form", ["pickles", "tar", "tar.gz"])
def test_cifar10(form: str, tmp_path: Path) -> None:
    told(f"CIFAR-10, {form}", *cifar(form, tmp_path))


@pytest.mark.parametrize("form", ["folder", "zip", "EDM's zip", "tar", "zip to be evaluated"])
def test_images(form: str, tmp_path: Path) -> None:
    told(f"images, {form}", *images(form, tmp_path))


@pytest.mark.parametrize("form", ["a data set", "images", "a reference", "published statistics"])
def test_arrays(form: str, tmp_path: Path) -> None:
    told(f"arrays, {form}", *arrays(form, tmp_path))


FORMS = ["EDM's pickle", "class embeddings", "a teacher", "a classifier", "pairs", "a generator"]


@pytest.mark.parametrize("form", FORMS)
def test_networks(form: str, tmp_path: Path, toy: Any, tiny: Path) -> None:
    told(f"networks, {form}", *networks(form, tmp_path, toy, tiny))


@pytest.mark.parametrize("form", ["as data", "that is run"])
def test_torchscript(form: str, tmp_path: Path) -> None:
    told(f"TorchScript, {form}", *scripts(form, tmp_path))


def test_configuration(config_folder: Any) -> None:
    files = sorted(config_folder.path.rglob("*.yaml"))
    told("YAML", config_folder.load, files)
