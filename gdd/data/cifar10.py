"""CIFAR-10 (Krizhevsky 2009) from an archive its author publishes: the binary version, or that for Python."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from gdd.errors import UserError, in_a_line
from gdd.foreign.read import read_foreign

PYTHON = (*(f"data_batch_{number}" for number in range(1, 6)), "batches.meta")  # images, in EDM's order
BINARY = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "batches.meta.txt")
SIZE = 32
PIXELS = 3 * SIZE * SIZE
LARGEST = 1 << 26  # bytes of a file; a batch has 31 MB
MOST_MEMBERS = 100  # of an archive

Batch = tuple[np.ndarray, np.ndarray]  # images [n, 32, 32, 3] uint8 and labels [n]
RawImages = tuple[np.ndarray, np.ndarray, dict[str, Any]]  # the same, and facts for dataset.json


def read_cifar10(raw: Path) -> RawImages:
    """Return the images and labels of the five training batches, in order.

    Args:
        raw: cifar-10-binary.tar.gz, cifar-10-python.tar.gz, or the folder either of them unpacks to.

    Raises:
        UserError: a batch is missing, damaged, or not what it should be; the sentence names it.
    """
    contents = _from_folder(raw) if raw.is_dir() else _from_archive(raw)
    binary = BINARY[-1] in contents
    if missing := [part for part in (BINARY if binary else PYTHON) if part not in contents]:
        raise UserError(f"{raw} lacks {', '.join(missing)}; it is not the whole of CIFAR-10.")
    *parts, meta = BINARY if binary else PYTHON
    if binary:
        classes = contents[meta].decode(errors="replace").split()
    else:
        classes = _python_classes(contents[meta], f"{meta} in {raw}")
    read = _binary_batch if binary else _python_batch
    batches = [read(contents.pop(part), f"{part} in {raw}") for part in parts]
    images, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    if labels.dtype.kind not in "iu" or not np.isin(labels, range(len(classes))).all():
        raise UserError(f"{raw} does not give each image one of {len(classes)} labels.")
    kind = "CIFAR-10, binary" if binary else "CIFAR-10 for Python"
    return images, labels, {"classes": classes, "source": str(raw), "source_kind": kind}


def _from_folder(raw: Path) -> dict[str, bytes]:
    return {name: (raw / name).read_bytes() for name in (*PYTHON, *BINARY) if (raw / name).is_file()}


def _from_archive(raw: Path) -> dict[str, bytes]:
    contents = {}
    try:
        with tarfile.open(raw, "r:*") as archive:
            for count, member in enumerate(archive):
                if member.size > LARGEST or count > MOST_MEMBERS:
                    raise UserError(f"{raw} holds more or larger files than CIFAR-10 has; fetch it again.")
                part = PurePosixPath(member.name).name
                file = archive.extractfile(member)
                if file and part in (*PYTHON, *BINARY):
                    contents[part] = file.read(LARGEST)
    except (tarfile.TarError, EOFError, OSError, OverflowError, ValueError, zlib.error) as error:
        raise UserError(f"{raw} is not a whole archive ({in_a_line(error)}); fetch it again.") from None
    return contents


def _images(pixels: np.ndarray) -> np.ndarray:
    """Turn rows of red, green and blue planes into images `[n, 32, 32, 3]`."""
    return pixels.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)


def _binary_batch(content: bytes, where: str) -> Batch:
    """Read records of a label and 3 x 32 x 32 pixels, all of them bytes."""
    if len(content) % (1 + PIXELS):
        raise UserError(f"{where} does not consist of records of {1 + PIXELS:,} bytes; fetch it again.")
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
    return _images(records[:, 1:]), records[:, 0]


def _python_batch(content: bytes, where: str) -> Batch:
    facts, arrays = read_foreign(content, "batch", called=where)
    try:
        images, labels = _images(arrays["data"].numpy()), np.array(facts["labels"])
    except (KeyError, ValueError):
        images, labels = np.empty(0), np.empty(1)
    if labels.shape != (len(images),):
        raise UserError(f"{where} does not hold images of 3 x {SIZE} x {SIZE} bytes with a label for each.")
    return images, labels


def _python_classes(content: bytes, where: str) -> list[str]:
    names = read_foreign(content, "batch", called=where)[0].get("label_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where} does not hold the names of the classes.")
    return names
