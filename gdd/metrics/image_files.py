"""Images in files, as anybody publishes samples or real images: an .npz, a folder, a .zip or a .tar."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from gdd.data.listing import Listing, list_images
from gdd.data.reading import reader
from gdd.data.transforms import Unusable, decode
from gdd.errors import DivergedError, UserError
from gdd.files import sha256

KEYS = ("images", "arr_0", "samples")  # ADM's batches (arXiv:2105.05233) have numpy's own names
BROKEN = (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error)
CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class ImageFiles:
    """Images of one size, in the order of their files' names or of the array."""

    count: int
    shape: tuple[int, int, int]  # (C, H, W)
    sha256: str  # of the file, or of all names and files
    rows: Callable[[int, int], np.ndarray]  # from start to stop, uint8 [N, H, W, C]


def open_images(path: str | Path) -> ImageFiles:
    """Return the images of an .npz, a folder, a .zip or a .tar; files of images are made RGB.

    Raises:
        UserError: there is no such file, it is broken, or its images are no bytes or not square.
        DivergedError: they hold NaN or infinity.
    """
    path = Path(path)
    if path.suffix == ".npy":
        raise UserError(f"{path} is a bare array; save it as .npz under the name 'images'.")
    if path.suffix == ".npz":
        array = _read_array(path)
        _require_bytes(array, path)
        count, height, width, channels = array.shape
        return ImageFiles(
            count, (channels, height, width), sha256(path), lambda *of: array[slice(*of)].copy()
        )
    listing = list_images(path)
    if len(listing) == 0:
        raise UserError(f"{path} holds no images.")
    side = _side_of_first(listing)
    return ImageFiles(len(listing), (3, side, side), _digest(listing), partial(_read_rows, listing, side))


def _read_array(path: Path) -> np.ndarray:
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


def _read_rows(listing: Listing, side: int, start: int, stop: int) -> np.ndarray:
    rows = np.empty((stop - start, side, side, 3), np.uint8)
    with reader(listing.path) as read:
        for row, entry in zip(rows, listing.entries(np.arange(start, stop)), strict=True):
            try:
                row[:] = decode(read(entry), None, side)
            except Unusable as reason:
                raise UserError(f"The image {entry.name} in {listing.path} {reason}.") from None
    return rows


def _side_of_first(listing: Listing) -> int:
    """Return how large the first image is, and with it all have to be."""
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
