"""Where images to be judged come from: a generator, a teacher with its sampler, or files of images.

Whatever it is, image i is the same however the indices are split over batches and processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gdd.config.recipe import Sampler
from gdd.data.quantise import quantise
from gdd.diffusion.sampler import function_evaluations
from gdd.diffusion.sampling import sample_range
from gdd.distill.generate import generate
from gdd.errors import UserError
from gdd.files import sha256
from gdd.metrics.image_sets import open_image_set
from gdd.networks.checkpoint import load_denoiser, load_generator
from gdd.networks.weights import load_weights

BATCH = 250  # images that go through a network at once
GENERATORS = ("generator", "two-time generator")


class ImageSource(Protocol):
    """Uint8 images by their indices, and what they are.

    Attributes:
        name: the file they come from.
        kind: what it is: "generator", "teacher" or "images".
        sha256: of the weights, or of the images' file or files.
        shape: one image's (C, H, W).
        evaluations: of the network for an image; None where that is unknown.
        count: how many there are; None for as many as anybody asks for.
        dataset: the data set they imitate, where the file says it.
        facts: what else decides the images, as JSON values.
    """

    name: str
    kind: str
    sha256: str
    shape: tuple[int, int, int]
    evaluations: int | None
    count: int | None
    dataset: str | None
    facts: dict[str, Any]

    def images(self, start: int, count: int) -> Tensor:
        """Return the images `start` to `start + count`, uint8 [count, H, W, C].

        Raises:
            UserError: there are not as many.
            DivergedError: an image holds NaN or infinity.
        """
        ...


class GeneratorSource:
    """A student of this project, of one step or several."""

    kind = "generator"
    count: int | None = None

    def __init__(
        self,
        path: str | Path,
        *,
        seed: int = 0,
        batch: int = BATCH,
        device: torch.device | str = "cpu",
        only_class: int | None = None,
    ) -> None:
        """Load the generator.

        Args:
            path: its safetensors.
            seed: latents and labels of image i come from (seed, i).
            batch: images at once.
            device: where the network runs.
            only_class: the class of all images; without it, a class-conditional generator draws them.

        Raises:
            UserError: the file holds something else, or there is no such class.
        """
        self.name, self.sha256 = str(path), sha256_of(path)
        self._generator = load_generator(path).to(device)
        self._seed, self._batch, self._class = seed, batch, only_class
        arch = self._generator.arch
        check_class(only_class, arch.label_dim, path)
        self.shape = (arch.img_channels, arch.img_resolution, arch.img_resolution)
        self.evaluations: int | None = self._generator.steps
        self.dataset: str | None = _description(path).get("dataset")
        self.facts: dict[str, Any] = {"seed": seed, "class": only_class, "classes": arch.label_dim}

    def images(self, start: int, count: int) -> Tensor:
        """See `ImageSource`."""
        return _in_batches(self._few, start, count, self._batch)

    def _few(self, start: int, count: int) -> Tensor:
        return quantise(generate(self._generator, start, count, seed=self._seed, only_class=self._class))


class TeacherSource:
    """A diffusion model with one of EDM's samplers, deterministic or stochastic."""

    kind = "teacher"
    count: int | None = None

    def __init__(
        self,
        path: str | Path,
        sampler: Sampler,
        *,
        seed: int = 0,
        batch: int = BATCH,
        device: torch.device | str = "cpu",
    ) -> None:
        """Load the teacher.

        Raises:
            UserError: the file holds something else.
        """
        self.name, self.sha256 = str(path), sha256_of(path)
        self._denoiser = load_denoiser(path).to(device)
        self._sampler, self._seed, self._batch = sampler, seed, batch
        arch = self._denoiser.arch
        self.shape = (arch.img_channels, arch.img_resolution, arch.img_resolution)
        self.evaluations: int | None = function_evaluations(sampler.steps)
        self.dataset: str | None = _description(path).get("dataset")
        self.facts: dict[str, Any] = {
            "seed": seed,
            "sampler": sampler.model_dump(mode="json"),
            "classes": arch.label_dim,
        }

    def images(self, start: int, count: int) -> Tensor:
        """See `ImageSource`."""
        return _in_batches(self._few, start, count, self._batch)

    def _few(self, start: int, count: int) -> Tensor:
        return quantise(sample_range(self._denoiser, self._sampler, self._seed, start, count))


def open_source(
    path: str | Path,
    *,
    sampler: Sampler | None = None,
    seed: int = 0,
    batch: int = BATCH,
    device: torch.device | str = "cpu",
    only_class: int | None = None,
) -> ImageSource:
    """Return the images of a file or folder, by what it is.

    Args:
        path: safetensors of a generator or a teacher; or images: an .npz, a folder, a .zip, a .tar.
        sampler: for a teacher, and nothing else.
        seed: of latents and labels.
        batch: images that go through a network at once.
        device: where the network runs.
        only_class: see `GeneratorSource`.

    Raises:
        UserError: the file is missing, or neither of these.
    """
    path = Path(path)
    if path.suffix == ".pkl":
        raise UserError(f"{path} is a pickled network; turn it into one of gdd with `gdd import-teacher`.")
    kind = _description(path).get("kind") if path.suffix == ".safetensors" else None
    if kind == "denoiser":
        if sampler is None:
            raise UserError(
                f"{path} holds a teacher; say how to sample it, e.g. --sampler '{{\"steps\": 18}}'."
            )
        if only_class is not None:
            raise UserError(f"{path} holds a teacher, whose classes are drawn; leave out the class.")
        return TeacherSource(path, sampler, seed=seed, batch=batch, device=device)
    if sampler is not None:
        raise UserError(f"A sampler is for teachers, which {path} is not; leave it out.")
    if path.suffix == ".safetensors":
        return GeneratorSource(path, seed=seed, batch=batch, device=device, only_class=only_class)
    if only_class is not None:
        raise UserError(f"{path} holds images, whose classes nobody can choose; leave out the class.")
    return open_image_set(path)


def check_class(only_class: int | None, classes: int, path: str | Path) -> None:
    """Refuse a class that a generator does not know.

    Raises:
        UserError: there is no such class.
    """
    if only_class is None:
        return
    if classes == 0:
        raise UserError(f"{path} is not class-conditional; leave out the class {only_class}.")
    if not 0 <= only_class < classes:
        raise UserError(f"{path} knows the classes 0 to {classes - 1}, not {only_class}.")


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file that has to be there.

    Raises:
        UserError: it is not.
    """
    if not Path(path).is_file():
        raise UserError(f"The weights {path} do not exist.")
    return sha256(path)


def _description(path: str | Path) -> dict[str, Any]:
    """Return what a safetensors file says it holds, without reading its numbers."""
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("gdd")
    except (FileNotFoundError, SafetensorError, OSError):
        header = None
    # What is wrong with the file, the one who reads all of it says.
    return dict(json.loads(header)) if header else load_weights(path)[1]


def _in_batches(few: Callable[[int, int], Tensor], start: int, count: int, batch: int) -> Tensor:
    parts = [few(first, min(batch, start + count - first)) for first in range(start, start + count, batch)]
    return torch.cat(parts)
