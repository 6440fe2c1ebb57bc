"""The Frechet distance of a generator in training, on so few images that it only shows the trend."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gdd.data.image_array import ImageArray, quantise
from gdd.distill.generate import EVALUATION_SEED, generate
from gdd.errors import DivergedError
from gdd.files import sha256
from gdd.metrics.extractors import Extractor, open_extractor
from gdd.metrics.frechet import Moments, frechet_distance, require_enough_samples
from gdd.metrics.reference import Reference, check_compatible, load_reference
from gdd.networks.preconditioning import OneStepGenerator

log = logging.getLogger(__name__)

BATCH = 64  # images at once: a training that fills a GPU leaves little room


class FidMonitor:
    """FID of the first `images` images of the evaluation's latents (see `GeneratorMonitor`).

    It is called `fid_of_<images>`, because fewer images give a larger distance: it compares with distances of
    as many images alone, never with one of 50,000.

    Args:
        images: to generate each time.
        weights: of the extractor.
        reference: its features of the data set.
        every: images of training between two measurements; None is the snapshots' interval.
        dataset: whose reference it is, where that is another data set than the run's.
    """

    def __init__(
        self,
        images: int,
        weights: Path,
        reference: Path,
        *,
        every: int | None = None,
        dataset: str | None = None,
    ) -> None:
        self.images = images
        self.every = every
        self.dataset = dataset
        self.files = weights, reference
        self.name = f"fid_of_{images}"
        self._opened: tuple[Extractor, Reference] | None = None

    def open(self, data: ImageArray, device: torch.device) -> dict[str, Any]:
        """See `GeneratorMonitor`.

        Raises:
            UserError: a file is missing or does not fit the data, or there are too few images.
        """
        weights, file = self.files
        reference = load_reference(file)
        extractor = open_extractor(reference.description.extractor, weights, data.shape, device)
        check_compatible(reference, extractor, self.dataset or data.name, data.shape[1])
        require_enough_samples(self.images, extractor.dimension)
        self._opened = extractor, reference
        return {
            "name": self.name,
            "images": self.images,
            "every": self.every,
            "latent_seed": EVALUATION_SEED,
            "dataset": reference.description.dataset,
            "reference_sha256": sha256(file),
            "extractor_sha256": extractor.sha256,
            "definition": f"Frechet distance on {extractor.definition}; for the trend, "
            f"not comparable with a distance of another number of images than {self.images:,}",
        }

    def measure(
        self, generator: OneStepGenerator, interrupted: Callable[[], bool]
    ) -> dict[str, float] | None:
        """See `GeneratorMonitor`; NaN for a generator that has diverged, or where the memory is full."""
        assert self._opened
        extractor, reference = self._opened
        moments = Moments(extractor.dimension)
        for start in range(0, self.images, BATCH):
            if interrupted():
                return None
            try:
                images = quantise(generate(generator, start, min(BATCH, self.images - start)))
                moments.update(extractor(images))
            except (DivergedError, torch.OutOfMemoryError) as error:  # neither is the training's end
                log.warning("%s: %s", self.name, error)
                return {self.name: math.nan}
        return {self.name: frechet_distance(moments.gaussian(), reference.gaussian)}
