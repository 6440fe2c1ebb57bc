"""Where images to be evaluated come from: a generator, a teacher with its sampler, or files of images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gdd.config.recipe import Sampler
from gdd.config.records import EVALUATION_SEED
from gdd.data.conversion import decode, open_image
from gdd.data.image_array import quantise
from gdd.data.listing import Listing, Unusable, list_images, reader
from gdd.diffusion.sampler import sample_range
from gdd.distill.generate import generate
from gdd.errors import DivergedError, UserError, in_a_line
from gdd.files import BROKEN_ARRAYS, require_bounded, sha256
from gdd.networks.checkpoint import load_denoiser, load_generator, load_weights

BATCH = 250  # images that go through a network at once
KEYS = ("images", "arr_0", "samples")  # of an .npz; ADM's batches (arXiv:2105.05233) have numpy's own names


@dataclass(frozen=True)
class Source:
    """Images by their indices, and what they are.

    Image i is the same however the indices are split over batches and processes.

    Attributes:
        name: the file they come from.
        kind: what it is.
        sha256: of the weights, or of the images' file or files.
        shape: one image's (C, H, W).
        images: returns the images `start` to `start + count`, uint8 [count, H, W, C]. It raises a UserError
            where there are not as many, and a DivergedError for an image that holds NaN or infinity.
        facts: what else decides the images, as JSON values.
        evaluations: of the network for an image; None where that is unknown.
        count: how many there are; None for as many as anybody wants.
        dataset: the data set they imitate, where the file says it.
        batch: how many to make at once.
    """

    name: str
    kind: Literal["generator", "teacher", "images"]
    sha256: str
    shape: tuple[int, int, int]
    images: Callable[[int, int], Tensor]
    facts: dict[str, Any]
    evaluations: int | None = None
    count: int | None = None
    dataset: str | None = None
    batch: int = BATCH


def open_source(
    path: str | Path,
    *,
    sampler: Sampler | None = None,
    seed: int = EVALUATION_SEED,
    batch: int = BATCH,
    device: torch.device | str = "cpu",
    only_class: int | None = None,
    evaluations: int | None = None,
) -> Source:
    """Return the images of a file or folder, by what it is.

    Args:
        path: safetensors of a generator or a teacher; or images: an .npz, a folder, a .zip, a .tar.
        sampler: of a teacher, which needs one.
        seed: latents and labels of image i come from (seed, i).
        batch: images that go through a network at once.
        device: where the network runs.
        only_class: the class of all images; without it, a class-conditional generator draws them.
        evaluations: of the network that made a file's images.

    Raises:
        UserError: the file is missing, something else, or does not go with the other arguments.
    """
    path = Path(path)
    if path.suffix == ".pkl":
        raise UserError(f"{path} is a pickled network; turn it into one of gdd with `gdd import-teacher`.")
    described = load_weights(path)[1] if path.suffix == ".safetensors" else {}
    teacher = described.get("kind") == "denoiser"
    if teacher and sampler is None:
        raise UserError(f"{path} holds a teacher; say how to sample it, e.g. --steps 18.")
    if sampler is not None and not teacher:
        raise UserError(f"A sampler is for teachers, which {path} is not; leave it out.")
    if only_class is not None and (teacher or not described):
        raise UserError(f"Only a generator's class can be chosen, which {path} is not; leave it out.")
    if not described:
        return _images(path, evaluations)

    if sampler is not None:
        denoiser = load_denoiser(path).to(device)
        arch, evaluations = denoiser.arch, sampler.evaluations
        facts: dict[str, Any] = {"seed": seed, "sampler": sampler.model_dump(mode="json")}

        def images(start: int, count: int) -> Tensor:
            return quantise(sample_range(denoiser, sampler, seed, start, count))
    else:
        generator = load_generator(path).to(device)
        arch, evaluations, facts = generator.arch, generator.steps, {"seed": seed, "class": only_class}
        if only_class is not None and not 0 <= only_class < arch.label_dim:
            raise UserError(
                f"{path} has {arch.label_dim} classes, counted from 0, and no class {only_class}."
            )

        def images(start: int, count: int) -> Tensor:
            return quantise(generate(generator, start, count, seed=seed, only_class=only_class))

    return Source(
        name=str(path),
        kind="teacher" if teacher else "generator",
        sha256=sha256(path),
        shape=(arch.img_channels, arch.img_resolution, arch.img_resolution),
        images=images,
        facts=facts,
        evaluations=evaluations,
        dataset=described.get("dataset"),
        batch=batch,
    )


def in_turn(source: Source, batches: Iterable[tuple[int, int]], device: torch.device) -> Iterator[Tensor]:
    """Yield the images of each batch (first index, size); on a GPU, the next are made while these are used.

    A thread of its own waits for the GPU, to see whether images are finite, and brings them to pinned memory
    before it begins the next ones; who resizes them or copies them back waits for no kernels of those.
    """
    if device.type != "cuda":
        yield from (source.images(first, size) for first, size in batches)
        return

    def make(first: int, size: int) -> Tensor:
        with torch.cuda.device(device):  # which is another one in each thread
            return source.images(first, size).cpu().pin_memory()

    with ThreadPoolExecutor(1) as pool:
        submitted = (pool.submit(make, *batch) for batch in batches)
        current = next(submitted, None)
        while current:
            following = next(submitted, None)
            yield current.result()
            current = following


def _images(path: Path, evaluations: int | None) -> Source:
    """Return the images of an .npz, a folder, a .zip or a .tar; files of images are made RGB."""
    if path.suffix == ".npz":
        array = _read_array(path)
        (count, *shape), digest = array.shape, sha256(path)

        def rows(start: int, stop: int) -> np.ndarray:
            return array[start:stop]
    else:
        listing = list_images(path)
        if len(listing) == 0:
            raise UserError(f"{path} holds no images.")
        side = _side_of_first(listing)
        count, shape, digest = len(listing), [side, side, 3], _digest(listing)

        def rows(start: int, stop: int) -> np.ndarray:
            return _read_rows(listing, side, start, stop)

    def images(start: int, number: int) -> Tensor:
        if start + number > count:
            raise UserError(f"{path} holds {count:,} images, not {start + number:,}; ask for fewer.")
        return torch.from_numpy(rows(start, start + number))

    height, width, channels = shape
    return Source(
        name=str(path),
        kind="images",
        sha256=digest,
        shape=(channels, height, width),
        images=images,
        facts={"images": count},
        evaluations=evaluations,
        count=count,
    )


def _read_array(path: Path) -> np.ndarray:
    """Return uint8 images [N, H, W, C]."""
    try:
        require_bounded(path)
        with np.load(path, allow_pickle=False) as file:
            key = next((key for key in KEYS if key in file), None)
            if key is None:
                raise UserError(f"{path} holds no array called {' or '.join(KEYS)}; call the images so.")
            array: np.ndarray = file[key]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except BROKEN_ARRAYS as error:
        raise UserError(
            f"{path} cannot be read as an .npz of images ({in_a_line(error)}); make it again."
        ) from None
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DivergedError(f"{path} holds images with NaN or infinity; the network has diverged.")
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] not in (1, 3) or len(array) == 0:
        raise UserError(
            f"{path} holds {array.dtype} {list(array.shape)} instead of uint8 images [N, H, W, 1 or 3]; "
            "save them like that, from [-1, 1] as clip(127.5 x + 128, 0, 255)."
        )
    return array


def _read_rows(listing: Listing, side: int, start: int, stop: int) -> np.ndarray:
    rows = np.empty((stop - start, side, side, 3), np.uint8)
    with reader(listing.path) as read:
        for row, entry in zip(rows, listing.only(range(start, stop)), strict=True):
            try:
                row[:] = decode(read(entry), None, side)
            except Unusable as reason:
                raise UserError(f"The image {entry.name} in {listing.path} {reason}.") from None
    return rows


def _side_of_first(listing: Listing) -> int:
    """Return how wide the first image is, and with it how wide and high all have to be."""
    (entry,) = listing.only([0])
    try:
        with reader(listing.path) as read, open_image(read(entry)) as image:
            width, height = image.size
            if width != height:
                raise Unusable(f"is {width}x{height}, no square")
            return width
    except (Unusable, OSError, Image.DecompressionBombError) as error:
        raise UserError(
            f"The image {entry.name} in {listing.path} cannot be read ({in_a_line(error)})."
        ) from None


def _digest(listing: Listing) -> str:
    """Return a hash of names and contents: that of an archive's file, or one over all files of a folder."""
    digest = hashlib.sha256(listing.fingerprint().encode())
    if listing.kind != "folder":
        digest.update(sha256(listing.path).encode())
        return digest.hexdigest()
    with reader(listing.path) as read:
        for entry in listing:
            try:
                digest.update(hashlib.sha256(read(entry)).hexdigest().encode())
            except Unusable as reason:
                raise UserError(f"The image {entry.name} in {listing.path} {reason}.") from None
    return digest.hexdigest()
