"""How the runs of a setting are judged: which metrics there are, and in whose features each is computed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import model_validator

from gdd.config.recipe import Count
from gdd.config.record import Distinct, Record
from gdd.errors import UserError

PIXELS = "pixels"  # the extractor that needs no network

Metric = Literal[
    "fid",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "inception_score",
    "clean_fid",  # behind clean-fid's resize
    "clean_kid",
    "clip_fid",
    "fd_dinov2",
    "pixel_fid",
    "pixel_precision",
    "pixel_recall",
    "pixel_density",
    "pixel_coverage",
    "nearest",  # distance to the nearest real image
]
METRICS: tuple[Metric, ...] = get_args(Metric)

# By a metric's name: the extractor, and what the metric is called there. All others are the judge's.
ELSEWHERE = {
    "clean_fid": ("inception-clean", "fid"),
    "clean_kid": ("inception-clean", "kid"),
    "clip_fid": ("clip", "fid"),
    "fd_dinov2": ("dinov2", "fid"),
    "pixel_fid": (PIXELS, "fid"),
    "pixel_precision": (PIXELS, "precision"),
    "pixel_recall": (PIXELS, "recall"),
    "pixel_density": (PIXELS, "density"),
    "pixel_coverage": (PIXELS, "coverage"),
    "nearest": (PIXELS, "nearest"),
}
USUAL: tuple[Metric, ...] = ("fid", "precision", "recall", "density", "coverage")
USUAL_OF_PIXELS: tuple[Metric, ...] = (
    "pixel_fid",
    "pixel_precision",
    "pixel_recall",
    "pixel_density",
    "pixel_coverage",
    "nearest",
)
ON_CURVES = ("fid", "pixel_fid")


def spaces(metrics: Iterable[str], judge: str) -> dict[str, dict[str, str]]:
    """Return by extractor the metrics asked for and what they are called there.

    Raises:
        UserError: there is no such metric.
    """
    found: dict[str, dict[str, str]] = {}
    for metric in (name.replace("-", "_") for name in metrics):
        if metric not in METRICS:
            raise UserError(f"There is no metric '{metric}'; choose from {', '.join(METRICS)}.")
        space, inner = ELSEWHERE.get(metric, (judge, metric))
        found.setdefault(space, {})[metric] = inner
    return found


class Evaluation(Record):
    """How the runs of a setting are judged.

    Every snapshot is judged by its FID on block 0 of the latents; the last, the best (by that FID) and those
    of `also_at` by all metrics on every block.
    """

    later_keys: ClassVar[tuple[str, ...]] = ("also_at", "metrics")

    dataset: str | None = None  # the real images compared with; None is the setting's own data set
    extractor: str  # features in which `fid`, `precision` and most others are computed
    pixels: bool = False  # the usual metrics on raw pixels too, and `nearest`
    samples: Count  # generated images per block of latents
    blocks: Count = 1  # blocks for the final and the best snapshot; curves use block 0
    # Image counts of further snapshots that are judged like the final one, in runs that have them.
    also_at: Annotated[tuple[Count, ...], Distinct] = ()
    # All metrics; none is the usual ones: fid, precision, recall, density, coverage, and what `pixels` adds.
    metrics: Annotated[tuple[Metric, ...], Distinct] = ()

    @model_validator(mode="after")
    def _has_what_chooses(self) -> Self:
        if self.metrics and "fid" not in self.metrics:
            raise ValueError("'metrics' needs 'fid', by which the best snapshot is chosen")
        if self.metrics and self.pixels:
            raise ValueError("'pixels' adds to the usual metrics; beside 'metrics', name them there")
        return self

    def wanted(self) -> tuple[Metric, ...]:
        """Return the metrics of whatever is judged in full."""
        return self.metrics or USUAL + (USUAL_OF_PIXELS if self.pixels else ())

    def wanted_on_curves(self) -> tuple[Metric, ...]:
        """Return the metrics of every snapshot."""
        return tuple(metric for metric in self.wanted() if metric in ON_CURVES)

    def extractors(self) -> list[str]:
        """Return the extractors that the metrics need, `PIXELS` among them."""
        return list(spaces(self.wanted(), self.extractor))
