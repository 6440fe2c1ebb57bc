"""Feature extractors: what turns images into the vectors that metrics compare."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gdd import files
from gdd.errors import UserError
from gdd.networks.classifier import load_classifier
from gdd.networks.weights import load_weights


class FeatureExtractor(Protocol):
    """Turns uint8 images [B, H, W, C] into features [B, D] in float32 or float64.

    `name` is the key in results, `sha256` identifies the weights (or the definition where there are none),
    `definition` is one sentence that stands beside every number.
    """

    name: str
    dimension: int
    sha256: str
    definition: str

    def __call__(self, images: Tensor) -> Tensor:
        """Return features [B, D] of uint8 images [B, H, W, C]."""
        ...


@runtime_checkable
class ProbabilityExtractor(FeatureExtractor, Protocol):
    """An extractor whose network also classifies, so that the Inception Score costs no second pass."""

    def features_and_probabilities(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [B, D] and class probabilities [B, K] of uint8 images [B, H, W, C]."""
        ...


class PixelExtractor:
    """The pixels themselves, in [-1, 1]."""

    name = "pixels"
    definition = "raw pixels as x / 127.5 - 1, flattened in the order row, column, channel"

    def __init__(self, resolution: int, channels: int) -> None:
        self.dimension = resolution * resolution * channels
        self.sha256 = hashlib.sha256(self.definition.encode()).hexdigest()
        self._shape = (resolution, resolution, channels)

    def __call__(self, images: Tensor) -> Tensor:
        """Return pixels [B, H W C], float32, of uint8 images [B, H, W, C].

        Raises:
            UserError: the images have another size than the extractor was made for.
        """
        require_bytes(images)
        _require_shape(images, self._shape, "a pixel extractor")
        return _to_unit_range(images, torch.float32).flatten(1)


class ClassifierExtractor:
    """Penultimate features of a small classifier, times one constant.

    The constant makes the mean standard deviation of a feature 1 on the classifier's training data, so that
    distances have a scale. It stands as `feature_scale` in the description of the classifier's file.
    """

    name = "classifier"

    def __init__(self, path: str | Path, device: torch.device | str = "cpu") -> None:
        """Load the classifier.

        Raises:
            UserError: the file is missing or broken, or its description gives no usable `feature_scale`.
        """
        _, description = load_weights(path)
        scale = description.get("feature_scale")
        if not isinstance(scale, int | float) or not 0 < scale < float("inf"):
            raise UserError(
                f"The classifier {path} says '{scale}' for feature_scale instead of a positive number; "
                "train it again."
            )
        self._scale = float(scale)
        # In float64, features do not depend on the batch size beyond rounding that no metric shows.
        self._net = load_classifier(path).to(device=device, dtype=torch.float64).eval().requires_grad_(False)
        self._device = device
        self.dimension = self._net.feature_channels
        self.sha256 = files.sha256(path)
        self.definition = (
            f"{self.dimension} penultimate features of a small classifier trained on the data set itself, "
            f"times {self._scale:.6g} so that their mean standard deviation on its training data is 1; "
            "not comparable with distances on Inception features"
        )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return features [B, D], float64, of uint8 images [B, H, W, C].

        Raises:
            UserError: the images have another size than the classifier was trained on.
        """
        require_bytes(images)
        expected = (self._net.img_resolution, self._net.img_resolution, self._net.img_channels)
        _require_shape(images, expected, "a classifier")
        pixels = _to_unit_range(images.to(self._device), torch.float64).permute(0, 3, 1, 2).contiguous()
        return self._net.features(pixels) * self._scale


def require_bytes(images: Tensor) -> None:
    """Refuse anything but uint8 images [B, H, W, C]: a float image would be scaled wrongly in silence."""
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(f"expected uint8 images [B, H, W, C], got {images.dtype} {list(images.shape)}")


def _require_shape(images: Tensor, expected: tuple[int, int, int], extractor: str) -> None:
    found = tuple(images.shape[1:])
    if found != expected:
        raise UserError(
            f"Images of {found} (height, width, channels) came to {extractor} for {expected}; "
            "evaluate with the files made for this data set."
        )


def _to_unit_range(images: Tensor, dtype: torch.dtype) -> Tensor:
    return images.to(dtype) / 127.5 - 1
