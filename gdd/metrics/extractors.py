"""Feature extractors: what turns images into the vectors that metrics compare."""

from __future__ import annotations

import hashlib
import pkgutil
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gdd import files
from gdd.config.metrics import PIXELS
from gdd.config.names import EXTRACTORS
from gdd.errors import UserError
from gdd.networks.checkpoint import load_weights
from gdd.networks.classifier import load_classifier

# Images that go through a large network at once: what a CPU's cache likes, and what fills a GPU.
BATCH, ON_GPU = 32, 250

# Imported when one is wanted, because timm and clean-fid take seconds. Other names are small classifiers'.
PUBLISHED = {
    "inception": "gdd.metrics.inception:InceptionExtractor",
    "inception-clean": "gdd.metrics.inception:CleanInceptionExtractor",
    "clip": "gdd.metrics.vision_transformers:ClipExtractor",
    "dinov2": "gdd.metrics.vision_transformers:DinoExtractor",
}
CODE = ("inception", "inception-clean")  # whose file is run

Shape = tuple[int, int, int]  # one image's (C, H, W)


class Extractor(Protocol):
    """Turns uint8 images [B, H, W, C] into features [B, D] in float32 or float64.

    One that also classifies has a method `probabilities`, from features [B, D] to [B, K].

    Attributes:
        name: the key in results.
        dimension: the number of features D.
        sha256: of the weights, or of the definition where there are none.
        definition: one sentence that stands beside every number.
    """

    name: str
    dimension: int
    sha256: str
    definition: str

    def __call__(self, images: Tensor) -> Tensor: ...


def open_extractor(
    name: str,
    path: str | Path | None,
    shape: Shape,
    device: torch.device | str = "cpu",
    trusted: Collection[str] = (),
) -> Extractor:
    """Return an extractor by its name in configuration, for images of that shape.

    `path` is that of its weights; pixels have none. Where they are code, their SHA-256 has to be `trusted`.

    Raises:
        UserError: the file is missing, damaged, another network's, or for images of another shape.
    """
    if name == PIXELS:
        return PixelExtractor(shape)
    if path is None:
        raise UserError(f"The extractor {name} needs the file of its weights.")
    if name not in PUBLISHED:
        return ClassifierExtractor(path, shape, device)
    trust = {"trusted": trusted} if name in CODE else {}
    extractor: Extractor = pkgutil.resolve_name(PUBLISHED[name])(path, device, **trust)
    return extractor


class PixelExtractor:
    """The pixels themselves, in [-1, 1]."""

    name = PIXELS
    definition = "raw pixels as x / 127.5 - 1, flattened in the order row, column, channel"

    def __init__(self, shape: Shape) -> None:
        channels, height, width = shape
        self.dimension = channels * height * width
        self.sha256 = hashlib.sha256(self.definition.encode()).hexdigest()

    def __call__(self, images: Tensor) -> Tensor:
        return (images.float() / 127.5 - 1).flatten(1)


class ClassifierExtractor:
    """Penultimate features of a small classifier, times one constant.

    The constant makes the mean standard deviation of a feature 1 on the classifier's training data, so that
    distances have a scale. It stands as `feature_scale` in the description of the classifier's file.

    Raises:
        UserError: the file is missing or broken, has no usable `feature_scale`, or is for other images.
    """

    name = "classifier"

    def __init__(self, path: str | Path, shape: Shape, device: torch.device | str = "cpu") -> None:
        scale = load_weights(path)[1].get("feature_scale")
        if not isinstance(scale, int | float) or not 0 < scale < float("inf"):
            raise UserError(
                f"The classifier {path} has the feature_scale '{scale}' instead of a positive number; "
                "train it again."
            )
        # In float64, features do not depend on the batch size beyond rounding that no metric shows.
        net = load_classifier(path).to(device=device, dtype=torch.float64).eval().requires_grad_(False)
        takes = (net.img_channels, net.img_resolution, net.img_resolution)
        if takes != shape:
            raise UserError(
                f"The classifier {path} takes images of {takes} (channels, height, width), not of {shape}; "
                "evaluate with the files made for this data set."
            )
        self._net, self._device, self._scale = net, device, float(scale)
        self.dimension = net.feature_channels
        self.sha256 = files.sha256(path)
        self.definition = (
            f"{self.dimension} penultimate features of a small classifier trained on the data set itself, "
            f"times {self._scale:.6g} so that their mean standard deviation on its training data is 1; "
            "not comparable with distances on Inception features"
        )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        pixels = images.to(self._device, torch.float64, non_blocking=True) / 127.5 - 1
        return self._net.features(pixels.permute(0, 3, 1, 2).contiguous()) * self._scale


class PublishedNetwork:
    """A network of a published file, which takes RGB images of any size, some at a time, in float32.

    Raises:
        UserError: the file does not exist.
    """

    name: str
    dimension: int
    definition: str

    def __init__(self, path: str | Path, device: torch.device | str) -> None:
        if not Path(path).is_file():
            raise UserError(
                f"{path} does not exist; run `gdd fetch {EXTRACTORS[self.name]}` for what {self.name} needs."
            )
        self.sha256 = files.sha256(path)
        self.device = torch.device(device)

    def features(self, images: Tensor) -> Tensor:
        """Return features [B, D] of uint8 images [B, H, W, 3]."""
        raise NotImplementedError

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return features [B, D] of uint8 images [B, H, W, 1 or 3]; grey ones are repeated to RGB."""
        rgb = images.expand(-1, -1, -1, 3)
        batch = ON_GPU if self.device.type == "cuda" else BATCH
        with reproducible_float32():
            return torch.cat([self.features(part) for part in rgb.split(batch)])


def each(images: Tensor, function: Callable[[np.ndarray], np.ndarray], device: torch.device) -> Tensor:
    """Resize every image on the CPU by a function: [B, H, W, 3] -> [B, 3, H', W'] on `device`."""
    arrays = images.cpu().contiguous().numpy()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # Pillow lets go of the interpreter's lock
        resized = list(pool.map(function, arrays))
    dtype = torch.from_numpy(np.empty(0, resized[0].dtype)).dtype
    shape = len(resized), *resized[0].shape
    stacked = torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")
    np.stack(resized, out=stacked.numpy())
    return stacked.to(device, non_blocking=True).permute(0, 3, 1, 2)


@contextmanager
def reproducible_float32() -> Iterator[None]:
    """Let networks compute in float32, and the same for the same images from the first call on."""
    before = torch.get_float32_matmul_precision()
    # A training may have turned TF32 on. The profiling executor compiles in the first calls on a GPU, and
    # again for new batch sizes, which takes longer than it saves.
    jit: Any = torch.jit
    try:
        torch.set_float32_matmul_precision("highest")
        with (
            jit.optimized_execution(False),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
