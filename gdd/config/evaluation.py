"""How the runs of a setting are evaluated: by which metrics, on how many images, against which data set."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import model_validator

from gdd.config.metrics import MetricName, by_extractor
from gdd.config.recipe import Count
from gdd.config.record import Distinct, Record

USUAL = ("fid", "precision", "recall", "density", "coverage")
USUAL_OF_PIXELS = (*(f"pixel_{name}" for name in USUAL), "nearest")
ON_CURVES = ("fid", "pixel_fid")


class Evaluation(Record):
    """How the runs of a setting are evaluated.

    Every snapshot is evaluated by its FID on block 0 of the latents; the last, the best (by that FID) and
    those of `also_at` by all metrics on every block.
    """

    dataset: str | None = None  # the real images compared with; None is the setting's own data set
    extractor: str  # in whose features `fid`, `precision` and most others are computed
    pixels: bool = False  # the usual metrics on raw pixels too, and `nearest`
    samples: Count  # generated images per block of latents
    blocks: Count = 1  # blocks for the final and the best snapshot; curves use block 0
    # Image counts of further snapshots that are evaluated like the final one, in runs that have them.
    also_at: Annotated[tuple[Count, ...], Distinct] = ()
    # All metrics; none is the usual ones: fid, precision, recall, density, coverage, and what `pixels` adds.
    metrics: Annotated[tuple[MetricName, ...], Distinct] = ()

    @model_validator(mode="after")
    def _has_what_chooses(self) -> Self:
        if self.metrics and "fid" not in self.metrics:
            raise ValueError("'metrics' needs 'fid', by which the best snapshot is chosen")
        if self.metrics and self.pixels:
            raise ValueError("'pixels' adds to the usual metrics; beside 'metrics', name them there")
        return self

    def wanted(self) -> tuple[str, ...]:
        """Return the metrics of whatever is evaluated in full."""
        return self.metrics or USUAL + (USUAL_OF_PIXELS if self.pixels else ())

    def wanted_on_curves(self) -> tuple[str, ...]:
        """Return the metrics of every snapshot."""
        return tuple(metric for metric in self.wanted() if metric in ON_CURVES)

    def extractors(self) -> list[str]:
        """Return the extractors that the metrics need, `pixels` among them."""
        return list(by_extractor(self.wanted(), self.extractor))
