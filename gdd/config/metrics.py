"""The table of metrics, and of the tables' other columns: all that the project knows of either stands here.

To add a metric, add an entry to `METRICS`: configuration, `gdd evaluate`, tables and page take it from there.
"""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from gdd.errors import UserError, did_you_mean

PIXELS = "pixels"  # the extractor that needs no network


@dataclass(frozen=True, kw_only=True)
class Column:
    """How a column of a table is headed and written."""

    title: str
    better: Literal["lower", "higher"] | None = None
    decimals: int | None = None  # None: whole numbers
    meaning: str = ""  # what metrics.json does not define
    spread: bool = True  # False: the same in every run of a row
    signed: bool = False  # a difference: written with its sign and its standard error

    @property
    def heading(self) -> str:
        """The title with an arrow towards better."""
        arrow = {"lower": " ↓", "higher": " ↑"}.get(self.better or "", "")
        return self.title if self.signed else self.title + arrow

    def places(self, value: float) -> int:
        """Return with how many decimals a value and its spreads are written."""
        return 1 if self.decimals and abs(value) >= 100 else self.decimals or 0

    def write(self, value: float) -> str:
        return f"{value:,.{self.places(value)}f}"


@dataclass(frozen=True, kw_only=True)
class Metric(Column):
    """A number that images are evaluated by."""

    extractor: str | None = None  # in whose features it is computed; None is the evaluation's own
    # What `function` is called with. moments: `Gaussian`s of real and of generated features; features: the
    # real [N, D] and the generated ones [M, D]; probabilities: of classes, of generated images, [M, K].
    needs: Literal["moments", "features", "probabilities"]
    # Where it stands, `module:name`, so that reading the configuration imports no torch. It returns a number;
    # or a NamedTuple of several, one pass for all, of which this metric is `part` with the spread `part`_std.
    function: str | Callable[..., Any]
    part: str = ""
    definition: str  # what metrics.json says it is, before the images and the features
    floor: float | None = None  # its value for real images; None is measured between halves of the data set
    least: float = 0.0  # what a value can be; a file with another one is refused
    most: float = math.inf

    @property
    def number(self) -> tuple[str | Callable[..., Any], str]:
        """What is computed, in whichever features."""
        return self.function, self.part

    def resolve(self) -> Callable[..., Any]:
        """Return the function, imported when it is first used."""
        return pkgutil.resolve_name(self.function) if isinstance(self.function, str) else self.function


_FRECHET = Metric(
    title="FID",
    needs="moments",
    function="gdd.metrics.frechet:frechet_distance",
    better="lower",
    decimals=2,
    definition="Frechet distance with unbiased covariances",
)
_KID = Metric(
    title="KID",
    needs="features",
    function="gdd.metrics.feature_sets:kernel_distance",
    better="lower",
    decimals=5,
    definition="unbiased squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, mean over 100 "
    "subsets of at most 1000 images, drawn by numpy's RandomState(0) in clean-fid's order",
    floor=0.0,  # on average
    least=-math.inf,
)
_NEIGHBOURS = {
    name: Metric(
        title=name.capitalize(),
        needs="features",
        function="gdd.metrics.feature_sets:neighbour_metrics",
        part=name,
        better="higher",
        decimals=3,
        definition=f"{definition} (k = 3, at most the distance)",
        most=math.inf if name == "density" else 1.0,
    )
    for name, definition in {
        "precision": "improved precision",
        "recall": "improved recall",
        "density": "density",
        "coverage": "coverage",
    }.items()
}

METRICS: dict[str, Metric] = {
    "fid": _FRECHET,
    "kid": _KID,
    **_NEIGHBOURS,
    "inception_score": Metric(
        title="Inception Score",
        needs="probabilities",
        function="gdd.metrics.inception:inception_score",
        part="score",
        better="higher",
        decimals=2,
        definition="Inception Score, 10 consecutive splits, the last layer without its bias",
        least=0.999,  # 1 but for rounding
    ),
    "clean_fid": replace(_FRECHET, title="Clean FID", extractor="inception-clean"),
    "clean_kid": replace(_KID, title="Clean KID", extractor="inception-clean"),
    "clip_fid": replace(_FRECHET, title="CLIP-FID", extractor="clip"),
    "fd_dinov2": replace(_FRECHET, title="FD-DINOv2", extractor="dinov2", decimals=1),
    "pixel_fid": replace(_FRECHET, title="Pixel FID", extractor=PIXELS),
    **{
        f"pixel_{name}": replace(metric, title=f"Pixel {name}", extractor=PIXELS)
        for name, metric in _NEIGHBOURS.items()
    },
    "nearest": Metric(
        title="Nearest real (1 = real)",
        extractor=PIXELS,
        needs="features",
        function="gdd.metrics.feature_sets:nearest_ratio",
        decimals=2,
        definition="median distance to the nearest real image over that between real images",
        floor=1.0,
    ),
}

_distance = partial(Column, better="lower", decimals=2)

DERIVED: dict[str, Column] = {
    "fid_minimum": _distance(
        title="Lowest FID",
        meaning="The lowest FID over the blocks of latents, as EDM and others report it; a mean over runs.",
    ),
    "reported_fid": _distance(
        title="Reported FID",
        spread=False,
        meaning="What others report, of the snapshot with the lowest FID; empty where no number is known.",
    ),
    "reported_recall": Column(
        title="Reported recall",
        better="higher",
        decimals=2,
        spread=False,
        meaning="What others report, on ImageNet against ADM's batch of 10,000 real images; empty where no "
        "number is known.",
    ),
    "reported_clip_fid": _distance(
        title="Reported CLIP-FID",
        spread=False,
        meaning="What others report, by an implementation that they do not name; empty where none is known.",
    ),
    "fid_difference": _distance(
        title="FID change from row above",
        spread=False,
        signed=True,
        meaning="Mean FID minus that of the student in the row above; below zero is better.",
    ),
    "best_fid": _distance(
        title="Best FID (block it was chosen on)",
        meaning="FID of every run's best snapshot on the block that chose it; the choice makes it too low.",
    ),
    "best_fid_fresh": _distance(
        title="Best FID (fresh blocks)",
        meaning="FID of the same snapshots on the other blocks of latents, which had no part in the choice.",
    ),
    "final_fid_fresh": _distance(
        title="Final FID (fresh blocks)",
        meaning="FID of the last snapshots on those other blocks, for comparison.",
    ),
    "evaluations": Column(title="Network evaluations", spread=False),
    "trainable": Column(title="Trainable", spread=False),
    "images": Column(title="Images", spread=False),
    "seconds": Column(
        title="Seconds",
        meaning="Training time of the student on the machine at hand, two jobs side by side; without the "
        "teacher's training and without solving pairs for direct imitation.",
    ),
}


def columns() -> dict[str, Column]:
    """Return everything that a table can have as a column."""
    return {**METRICS, **DERIVED}


def by_extractor(names: Iterable[str], extractor: str) -> dict[str, tuple[str, ...]]:
    """Return metrics by the extractor that each is computed with, those of `extractor` first.

    A name may have hyphens for underscores.

    Raises:
        UserError: there is no such metric.
    """
    found: dict[str, tuple[str, ...]] = {extractor: ()}
    for name in names:
        try:
            metric = _known(name.replace("-", "_"), METRICS, "metric")
        except ValueError as error:
            raise UserError(f"Metrics: {error}.") from None
        space = METRICS[metric].extractor or extractor
        found[space] = (*found.get(space, ()), metric)
    return {space: metrics for space, metrics in found.items() if metrics}


def too_few_images(count: int, metric: str, features: int, extractor: str) -> str:
    """Return why a metric cannot be had of so few images, real or generated; nothing if it can."""
    if METRICS[metric].needs != "moments" or count > features:
        return ""
    return (
        f"{count:,} images are too few for '{metric}': the covariance of {features:,} features of "
        f"'{extractor}' would be singular and the distance strongly biased; use at least {features + 1:,} "
        "images, real and generated, or an extractor of fewer features"
    )


def metric_help() -> str:
    """Return which metrics there are, by extractor, for a command's help."""
    spaces = by_extractor(METRICS, "the extractor asked for").items()
    return "; ".join(f"{', '.join(names)} ({space})" for space, names in spaces) + "."


def _known(name: str, known: Mapping[str, Column], kind: str) -> str:
    """Return the name.

    Raises:
        ValueError: there is no such column.
    """
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(f"there is no {kind} '{name}'; {hint}there are: {', '.join(known)}")
    return name


# Fields of the configuration that name a metric, or a column. The table is looked into when one is read.
MetricName = Annotated[
    str,
    AfterValidator(lambda name: _known(name, METRICS, "metric")),
    Field(json_schema_extra=lambda schema: schema.update(enum=list(METRICS))),
]
ColumnName = Annotated[
    str,
    AfterValidator(lambda name: _known(name, columns(), "column")),
    Field(json_schema_extra=lambda schema: schema.update(enum=list(columns()))),
]
