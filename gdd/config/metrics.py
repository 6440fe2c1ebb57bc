"""The table of metrics, and of the tables' other columns: all that the project knows of either stands here.

To add a metric, add an entry to `METRICS`: configuration, `gdd evaluate`, tables and page take it from there.
"""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from gdd.errors import UserError

PIXELS = "pixels"  # the extractor that needs no network


@dataclass(frozen=True, kw_only=True)
class Column:
    """How a column of a table is headed and written."""

    title: str
    better: Literal["lower", "higher"] | None = None
    decimals: int | None = None  # None: whole numbers
    meaning: str = ""  # what metrics.json does not say of it
    spread: bool = True  # False: the same in every run of a row
    signed: bool = False  # a difference: written with its sign and its standard error

    @property
    def heading(self) -> str:
        """The title with an arrow towards better."""
        arrow = {"lower": " ↓", "higher": " ↑"}.get(self.better or "", "")
        return self.title if self.signed else self.title + arrow


@dataclass(frozen=True, kw_only=True)
class Metric(Column):
    """A number that images are judged by."""

    extractor: str | None = None  # in whose features it is computed; None is the extractor that is asked for
    # What `function` is called with. moments: `Gaussian`s of real and of generated features; features: the
    # real [N, D] and the generated ones [M, D]; probabilities: of classes, of generated images, [M, K].
    needs: Literal["moments", "features", "probabilities"]
    # Where it stands, `module:name`, so that reading the configuration imports no torch. It returns a number;
    # or a NamedTuple of several, one pass for all, of which this metric is `part` with the spread `part`_std.
    function: str | Callable[..., Any]
    part: str = ""
    definition: str  # what metrics.json says it is, before the images and the features
    floor: float | None = None  # its value for real images; None is measured between halves of the data set

    @property
    def number(self) -> tuple[str | Callable[..., Any], str]:
        """What is computed, in whichever features."""
        return self.function, self.part

    def resolve(self) -> Callable[..., Any]:
        """Return the function, imported when it is first used."""
        return pkgutil.resolve_name(self.function) if isinstance(self.function, str) else self.function


def _frechet(title: str, extractor: str | None = None, decimals: int = 2) -> Metric:
    return Metric(
        title=title,
        extractor=extractor,
        needs="moments",
        function="gdd.metrics.frechet:frechet_distance",
        better="lower",
        decimals=decimals,
        definition="Frechet distance with unbiased covariances",
    )


def _neighbours(title: str, part: str, definition: str) -> Metric:
    return Metric(
        title=title,
        needs="features",
        function="gdd.metrics.neighbours:neighbour_metrics",
        part=part,
        better="higher",
        decimals=3,
        definition=f"{definition} (k = 3, at most the distance)",
    )


_KID = Metric(
    title="KID",
    needs="features",
    function="gdd.metrics.kid:kernel_distance",
    better="lower",
    decimals=5,
    definition="unbiased squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, mean over 100 "
    "subsets of at most 1000 images, drawn by numpy's RandomState(0) in clean-fid's order",
    floor=0.0,  # on average
)
_NEIGHBOURS = {
    "precision": _neighbours("Precision", "precision", "improved precision"),
    "recall": _neighbours("Recall", "recall", "improved recall"),
    "density": _neighbours("Density", "density", "density"),
    "coverage": _neighbours("Coverage", "coverage", "coverage"),
}

METRICS: dict[str, Metric] = {
    "fid": _frechet("FID"),
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
    ),
    "clean_fid": _frechet("Clean FID", "inception-clean"),
    "clean_kid": replace(_KID, title="Clean KID", extractor="inception-clean"),
    "clip_fid": _frechet("CLIP-FID", "clip"),
    "fd_dinov2": _frechet("FD-DINOv2", "dinov2", decimals=1),
    "pixel_fid": _frechet("Pixel FID", PIXELS),
    **{
        f"pixel_{name}": replace(metric, title=f"Pixel {name}", extractor=PIXELS)
        for name, metric in _NEIGHBOURS.items()
    },
    "nearest": Metric(
        title="Nearest real (1 = real)",
        extractor=PIXELS,
        needs="features",
        function="gdd.metrics.neighbours:nearest_ratio",
        decimals=2,
        definition="median distance to the nearest real image over that between real images",
        floor=1.0,
    ),
}

DERIVED: dict[str, Column] = {
    "fid_minimum": Column(
        title="Lowest FID",
        better="lower",
        decimals=2,
        meaning="The lowest FID over the blocks of latents, as EDM and others report it; a mean over runs.",
    ),
    "reported_fid": Column(
        title="Reported FID",
        better="lower",
        decimals=2,
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
    "reported_clip_fid": Column(
        title="Reported CLIP-FID",
        better="lower",
        decimals=2,
        spread=False,
        meaning="What others report, by an implementation that they do not name; empty where none is known.",
    ),
    "fid_difference": Column(
        title="FID change from row above",
        better="lower",
        decimals=2,
        spread=False,
        signed=True,
        meaning="Mean FID minus that of the student in the row above; below zero is better.",
    ),
    "best_fid": Column(
        title="Best FID (block it was chosen on)",
        better="lower",
        decimals=2,
        meaning="FID of every run's best snapshot on the block that chose it; the choice makes it too low.",
    ),
    "best_fid_fresh": Column(
        title="Best FID (fresh blocks)",
        better="lower",
        decimals=2,
        meaning="FID of the same snapshots on the other blocks of latents, which had no part in the choice.",
    ),
    "final_fid_fresh": Column(
        title="Final FID (fresh blocks)",
        better="lower",
        decimals=2,
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
    """Return the metrics by the extractor that each is computed with; `extractor` is that of most.

    A name may have hyphens for underscores.

    Raises:
        UserError: there is no such metric.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        try:
            metric = metric_name(name.replace("-", "_"))
        except ValueError as error:
            raise UserError(f"T{str(error)[1:]}.") from None
        space = METRICS[metric].extractor or extractor
        found[space] = (*found.get(space, ()), metric)
    return found


def metric_help() -> str:
    """Return which metrics there are, by extractor, for a command's help."""
    own, *others = by_extractor(METRICS, "").items()
    elsewhere = "; ".join(f"{', '.join(names)} ({space})" for space, names in others)
    return f"Of the extractor that is asked for: {', '.join(own[1])}. Of others: {elsewhere}."


def metric_name(name: str) -> str:
    """Return the name of a metric as it came.

    Raises:
        ValueError: there is no such metric.
    """
    return _known(name, METRICS, "metric")


def _column_name(name: str) -> str:
    return _known(name, columns(), "column")


def _known(name: str, known: Mapping[str, Column], kind: str) -> str:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ValueError(f"there is no {kind} '{name}'; {hint}there are: {', '.join(known)}")
    return name


def _list_metrics(schema: dict[str, Any]) -> None:
    schema["enum"] = list(METRICS)


def _list_columns(schema: dict[str, Any]) -> None:
    schema["enum"] = list(columns())


# Fields of the configuration that name a metric, or a column. The table is looked into when one is read.
MetricName = Annotated[str, AfterValidator(metric_name), Field(json_schema_extra=_list_metrics)]
ColumnName = Annotated[str, AfterValidator(_column_name), Field(json_schema_extra=_list_columns)]
