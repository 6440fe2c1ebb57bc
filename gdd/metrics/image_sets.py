"""Images in files, as anybody publishes samples or real images: an .npz, a folder, a .zip or a .tar."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gdd.data.listing import Listing, list_images
from gdd.data.reading import reader
from gdd.data.transforms import Unusable, decode
from gdd.errors import DivergedError, UserError
from gdd.files import sha256

KEYS = ("images", "arr_0", "samples")  # ADM's batches (arXiv:2105.05233) have numpy's own names
BROKEN = (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error)
CHUNK = 1 << 20  # bytes


class ImageSet(ABC):
    """Images that are there already; see `gdd.metrics.sources.ImageSource` for what its attributes mean."""

    kind = "images"
    evaluations: int | None = None
    dataset: str | None = None
    name: str
    sha256: str
    shape: tuple[int, int, int]

    def __init__(self, count: int) -> None:
        self.count: int | None = count
        self.facts: dict[str, Any] = {"images": count}

    def images(self, start: int, count: int) -> Tensor:
        """Return the images `start` to `start + count`, uint8 [count, H, W, C].

        Raises:
            UserError: there are not as many, or one cannot be read.
        """
        there = self.count or 0
        if start + count > there:
            raise UserError(
                f"{self.name} holds {there:,} images, but the {count:,} from {start:,} on are asked for; "
                "ask for fewer samples or blocks."
            )
        return torch.from_numpy(self._rows(start, start + count))

    @abstractmethod
    def _rows(self, start: int, stop: int) -> np.ndarray:
        """Return the images `start` to `stop`, uint8 [N, H, W, C]; there are as many."""


class ArrayImages(ImageSet):
    """The uint8 array [N, H, W, C] in an .npz, in the array's order."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            UserError: it is missing or broken, or its images are no bytes.
        """
        self._array = _read(path)
        _require_bytes(self._array, path)
        super().__init__(len(self._array))
        _, height, width, channels = self._array.shape
        self.name, self.sha256, self.shape = str(path), sha256(path), (channels, height, width)

    def _rows(self, start: int, stop: int) -> np.ndarray:
        return self._array[start:stop].copy()


class ListedImages(ImageSet):
    """Image files in a folder, a .zip or a .tar, sorted by name and made RGB as data sets are."""

    def __init__(self, path: Path) -> None:
        """List the images; the first one says how large all have to be.

        Raises:
            UserError: there is no image, the first one cannot be read, or it is not square.
        """
        self._listing = list_images(path)
        if len(self._listing) == 0:
            raise UserError(f"{path} holds no images.")
        super().__init__(len(self._listing))
        side = _side_of_first(self._listing)
        self.name, self.shape = str(path), (3, side, side)
        self.sha256 = _digest(self._listing)

    def _rows(self, start: int, stop: int) -> np.ndarray:
        resolution = self.shape[1]
        rows = np.empty((stop - start, resolution, resolution, 3), np.uint8)
        with reader(self._listing.path) as read:
            for row, entry in zip(rows, self._listing.entries(np.arange(start, stop)), strict=True):
                try:
                    row[:] = decode(read(entry), None, resolution)
                except Unusable as reason:
                    raise UserError(f"The image {entry.name} in {self.name} {reason}.") from None
        return rows


def open_image_set(path: str | Path) -> ImageSet:
    """Return the images of an .npz, a folder, a .zip or a .tar.

    Raises:
        UserError: there is no such file, or no usable image in it.
    """
    path = Path(path)
    if path.suffix == ".npz":
        return ArrayImages(path)
    if path.suffix == ".npy":
        raise UserError(f"{path} is a bare array; save it as .npz under the name 'images'.")
    return ListedImages(path)


def _read(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as file:
            key = next((key for key in KEYS if key in file), None)
            if key is None:
                raise UserError(
                    f"{path} holds no array called {' or '.join(KEYS)}; save the images as 'images'."
                )
            array: np.ndarray = file[key]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except BROKEN as error:
        raise UserError(f"{path} cannot be read as an .npz of images ({error}); make it again.") from None
    return array


def _require_bytes(array: np.ndarray, path: Path) -> None:
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise DivergedError(f"{path} holds images with NaN or infinity; the network has diverged.")
        low, high = array.min(initial=np.inf), array.max(initial=-np.inf)
        raise UserError(
            f"{path} holds {array.dtype} images from {low:.3g} to {high:.3g}, but metrics are of bytes; "
            "save uint8 images, from [-1, 1] as clip(127.5 x + 128, 0, 255)."
        )
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] not in (1, 3) or len(array) == 0:
        raise UserError(
            f"{path} holds {array.dtype} {list(array.shape)} instead of uint8 images [N, H, W, 1 or 3]; "
            "save them like that."
        )


def _side_of_first(listing: Listing) -> int:
    ((entry),) = listing.entries(np.arange(1))
    with reader(listing.path) as read:
        try:
            with Image.open(io.BytesIO(read(entry))) as image:
                width, height = image.size
        except (Unusable, OSError) as error:
            raise UserError(f"The image {entry.name} in {listing.path} cannot be read ({error}).") from None
    if width != height:
        raise UserError(
            f"The image {entry.name} in {listing.path} is {width}x{height}; only square ones fit."
        )
    return width


def _digest(listing: Listing) -> str:
    """Return a hash of names and contents: that of an archive's file, or one over all files of a folder."""
    digest = hashlib.sha256(listing.fingerprint().encode())
    if listing.kind != "folder":
        digest.update(sha256(listing.path).encode())
        return digest.hexdigest()
    for name in listing.names:
        with (listing.path / name).open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
