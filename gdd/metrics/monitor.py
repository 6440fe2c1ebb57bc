"""The Frechet distance of a generator in training, on so few images that it only shows the trend."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gdd.config.records import EVALUATION_SEED
from gdd.data.image_array import ImageArray, quantise
from gdd.distill.generate import generate
from gdd.errors import DivergedError
from gdd.metrics.frechet import Moments, frechet_distance
from gdd.metrics.reference import Comparison, open_comparisons
from gdd.networks.preconditioning import OneStepGenerator

log = logging.getLogger(__name__)

BATCH = 64  # images at once: a training that fills a GPU leaves little room


@dataclass
class FidMonitor:
    """FID of the first `images` images of the evaluation's latents (see `GeneratorMonitor`).

    It is called `fid_of_<images>`, because fewer images give a larger distance: it compares with distances of
    as many images alone, never with one of 50,000.
    """

    images: int  # to generate each time
    weights: Path  # of the extractor
    reference: Path  # `<extractor>.npz`
    every: int | None = None  # images of training between two measurements; None is the snapshots' interval
    trusted: Collection[str] = ()  # see `open_extractor`
    dataset: str | None = None  # of the reference, where that is another one than the run's
    _opened: Comparison | None = None

    @property
    def name(self) -> str:
        return f"fid_of_{self.images}"

    def open(self, data: ImageArray, device: torch.device) -> dict[str, Any]:
        """See `GeneratorMonitor`.

        Raises:
            UserError: a file is missing or does not fit the data, or there are too few images.
        """
        extractor = self.reference.stem
        (self._opened,) = open_comparisons(
            data.shape,
            self.reference,
            {extractor: ("fid",)},
            weights={extractor: self.weights},
            dataset=self.dataset or data.name,
            device=device,
            trusted=self.trusted,
        ).values()
        self._opened.check(self.images)
        network, reference = self._opened.extractor, self._opened.reference
        return {
            "name": self.name,
            "images": self.images,
            "every": self.every,
            "latent_seed": EVALUATION_SEED,
            "dataset": reference.description.dataset,
            "reference_sha256": reference.sha256,
            "extractor_sha256": network.sha256,
            "definition": f"Frechet distance on {network.definition}; for the trend, "
            f"not comparable with a distance of another number of images than {self.images:,}",
        }

    def measure(
        self, generator: OneStepGenerator, interrupted: Callable[[], bool]
    ) -> dict[str, float] | None:
        """See `GeneratorMonitor`; NaN for a generator that has diverged, or where the memory is full."""
        assert self._opened
        extractor = self._opened.extractor
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
        return {self.name: frechet_distance(self._opened.reference.gaussian, moments.gaussian())}
