"""Where images to be evaluated come from: a generator, a teacher with its sampler, or files of images."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
from gdd.metrics.image_files import open_images
from gdd.networks.checkpoint import load_denoiser, load_generator
from gdd.networks.weights import load_weights

BATCH = 250  # images that go through a generator at once
Draw = Callable[[int, int], Tensor]


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
        count: how many there are; None for as many as anybody asks for.
        dataset: the data set they imitate, where the file says it.
    """

    name: str
    kind: Literal["generator", "teacher", "images"]
    sha256: str
    shape: tuple[int, int, int]
    images: Draw
    facts: dict[str, Any]
    evaluations: int | None = None
    count: int | None = None
    dataset: str | None = None


def open_source(
    path: str | Path,
    *,
    sampler: Sampler | None = None,
    seed: int = 0,
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
    weights = path.suffix == ".safetensors"
    described = _description(path) if weights else {}
    teacher = described.get("kind") == "denoiser"
    if teacher and sampler is None:
        raise UserError(f"{path} holds a teacher; say how to sample it, e.g. --sampler '{{\"steps\": 18}}'.")
    if teacher and only_class is not None:
        raise UserError(f"{path} holds a teacher, whose classes are drawn; leave out the class.")
    if sampler is not None and not teacher:
        raise UserError(f"A sampler is for teachers, which {path} is not; leave it out.")
    if not weights:
        if only_class is not None:
            raise UserError(f"{path} holds images, whose classes nobody can choose; leave out the class.")
        return _image_files(path, evaluations)

    draw: Draw
    if sampler is not None:
        denoiser = load_denoiser(path).to(device)
        arch, evaluations = denoiser.arch, function_evaluations(sampler.steps)
        how: dict[str, Any] = {"sampler": sampler.model_dump(mode="json")}

        def draw(start: int, count: int) -> Tensor:
            return quantise(sample_range(denoiser, sampler, seed, start, count))
    else:
        generator = load_generator(path).to(device)
        arch, evaluations = generator.arch, generator.steps
        _check_class(only_class, arch.label_dim, path)
        how = {"class": only_class}

        def draw(start: int, count: int) -> Tensor:
            return quantise(generate(generator, start, count, seed=seed, only_class=only_class))

    return Source(
        name=str(path),
        kind="teacher" if teacher else "generator",
        sha256=sha256(path),
        shape=(arch.img_channels, arch.img_resolution, arch.img_resolution),
        images=_in_batches(draw, batch),
        facts={"seed": seed, **how, "classes": arch.label_dim},
        evaluations=evaluations,
        dataset=described.get("dataset"),
    )


def _image_files(path: Path, evaluations: int | None) -> Source:
    files = open_images(path)

    def draw(start: int, count: int) -> Tensor:
        if start + count > files.count:
            raise UserError(
                f"{path} holds {files.count:,} images, but the {count:,} from {start:,} on are asked for; "
                "ask for fewer samples or blocks."
            )
        return torch.from_numpy(files.rows(start, start + count))

    return Source(
        name=str(path),
        kind="images",
        sha256=files.sha256,
        shape=files.shape,
        images=draw,
        facts={"images": files.count},
        evaluations=evaluations,
        count=files.count,
    )


def _check_class(only_class: int | None, classes: int, path: Path) -> None:
    if only_class is None:
        return
    if classes == 0:
        raise UserError(f"{path} is not class-conditional; leave out the class {only_class}.")
    if not 0 <= only_class < classes:
        raise UserError(f"{path} knows the classes 0 to {classes - 1}, not {only_class}.")


def _in_batches(draw: Draw, batch: int) -> Draw:
    def images(start: int, count: int) -> Tensor:
        firsts = range(start, start + count, batch)
        return torch.cat([draw(first, min(batch, start + count - first)) for first in firsts])

    return images


def _description(path: Path) -> dict[str, Any]:
    """Return what a safetensors file says it holds, without reading its numbers."""
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("gdd")
    except (FileNotFoundError, SafetensorError, OSError):
        header = None
    # What is wrong with the file, the one who reads all of it says.
    return dict(json.loads(header)) if header else load_weights(path)[1]
