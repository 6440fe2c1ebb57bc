"""Image files of all shapes, and folders and archives that hold them."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photographs import Files
from PIL import Image

from gdd.data import conversion


def encoded(image: Image.Image | np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    """Return an image as a file's content."""
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    return encoded


@pytest.fixture(scope="session")
def photos() -> Files:
    """Nineteen images of mixed size and format in three folders, and files that are no images."""
    random = np.random.default_rng(5)
    files = {}
    for index in range(19):
        height, width = random.integers(8, 24, 2)
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        ending, format = (("png", "PNG"), ("JPEG", "JPEG"))[index % 2]
        files[f"{'bca'[index % 3]}/{'image' if index % 2 else 'Image'}{index}.{ending}"] = encoded(
            pixels, format
        )
    return {**files, "b/readme.txt": b"text", "a/._Image2.png": b"a fork", "__MACOSX/a/Image2.png": b"a fork"}


Source = Callable[[str, Path, Files], Path]


@pytest.fixture(scope="session")
def make_source() -> Source:
    """Put files into a folder or an archive below a path, in reverse order, and return what to read."""

    def make(kind: str, path: Path, files: Files) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        reverse = dict(reversed(files.items()))
        if kind == "folder":
            for name, content in reverse.items():
                (path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
                (path / "raw" / name).write_bytes(content)
            return path / "raw"
        if kind in ("zip", "deflated zip", "folder in a zip"):
            method = zipfile.ZIP_STORED if kind == "zip" else zipfile.ZIP_DEFLATED
            below = "some/where/" if kind == "folder in a zip" else ""
            with zipfile.ZipFile(path / "raw.zip", "w", method) as archive:
                archive.mkdir("some")
                if below:
                    archive.writestr("else/where/Image.png", b"")
                for name, content in reverse.items():
                    archive.writestr(below + name, content)
            return path / "raw.zip" / below if below else path / "raw.zip"
        if kind in ("tar", "tar of ./"):
            with tarfile.open(path / "raw.tar", "w") as archive:
                add_files(archive, reverse, "./" if kind == "tar of ./" else "")
            return path / "raw.tar"
        assert kind == "tar of tars"
        with tarfile.open(path / "raw.tar", "w") as archive:
            for folder in sorted({name.partition("/")[0] for name in files}):
                inner = io.BytesIO()
                with tarfile.open(fileobj=inner, mode="w") as inner_archive:
                    names = [name for name in reverse if name.startswith(f"{folder}/")]
                    add_files(inner_archive, {name.partition("/")[2]: files[name] for name in names})
                add_files(archive, {f"{folder}.tar": inner.getvalue()})
        return path / "raw.tar"

    return make


def add_files(archive: tarfile.TarFile, files: Files, below: str = "") -> None:
    for name, content in files.items():
        info = tarfile.TarInfo(below + name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))


KINDS = ["folder", "zip", "deflated zip", "folder in a zip", "tar", "tar of ./", "tar of tars"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """One kind of source after the other."""
    return str(request.param)


@pytest.fixture(scope="session")
def edm_zip() -> Callable[[Path, np.ndarray, Any], Path]:
    """Write images as EDM's archive; `labels` is a list, or None for its null."""

    def make(path: Path, images: np.ndarray, labels: Any) -> Path:
        names = [f"{index // 3:05d}/img{index:08d}.png" for index in range(len(images))]
        with zipfile.ZipFile(path, "w") as archive:
            for name, image in zip(names, images, strict=True):
                archive.writestr(name, encoded(image))
            pairs = (
                None
                if labels is None
                else [[name, int(label)] for name, label in zip(names, labels, strict=True)]
            )
            archive.writestr("dataset.json", json.dumps({"labels": pairs}))
        return path

    return make


@pytest.fixture
def source(photos: Files, make_source: Source, tmp_path: Path) -> Path:
    return make_source("folder", tmp_path / "source", photos)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convert four images at a time."""
    monkeypatch.setattr(conversion, "CHUNK", 4)
