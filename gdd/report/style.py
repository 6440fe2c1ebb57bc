"""How numbers and methods look, the same in every table and figure. Imports no matplotlib by itself."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gdd.config.load import Config
from gdd.experiments import TableRow
from gdd.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

INK = "#222222"
TEACHER = ("#000000", "#6e6e6e", "#9a9a9a")  # black first, then greys for further step counts
FLOOR = "#6e6e6e"
MARKERS = "osD^vPX*"
DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))  # tells rows of one method apart
# The two spreads never look alike: the training spread is a band or a thick bar, this one thin with caps.
SAMPLING_BAR: dict[str, Any] = {"linewidth": 0, "elinewidth": 1.4, "capsize": 3.5, "capthick": 1.4}
WIDTH = 8.0  # inches: the reading width of the site and of a page, so that points are points
RC: dict[Any, Any] = {
    "font.size": 12,
    "axes.labelsize": 12,
    "axes.titlesize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same figure on every machine
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#555555",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "lines.linewidth": 2.0,
    "lines.markersize": 6.5,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # text stays text in the PDF
}


@dataclass(frozen=True)
class ColumnStyle:
    """How a column is called and written."""

    title: str
    decimals: int | None = None  # None: whole numbers
    better: Literal["low", "high"] | None = None
    spread: bool = True  # False: the same in every run of a row, so a spread would say nothing
    signed: bool = False  # a difference: written with its sign and its standard error
    meaning: str = ""  # what the metrics files do not say of it


COLUMNS: dict[str, ColumnStyle] = {
    "fid": ColumnStyle("FID ↓", 2, "low"),
    "reported_fid": ColumnStyle(
        "Reported FID ↓",
        2,
        "low",
        spread=False,
        meaning="What others report, of the snapshot with the lowest FID; empty where no number is known.",
    ),
    "reported_recall": ColumnStyle(
        "Reported recall ↑",
        2,
        "high",
        spread=False,
        meaning="What others report, on ImageNet against ADM's batch of 10,000 real images; empty where no "
        "number is known.",
    ),
    "reported_clip_fid": ColumnStyle(
        "Reported CLIP-FID ↓",
        2,
        "low",
        spread=False,
        meaning="What others report, by an implementation that they do not name; empty where none is known.",
    ),
    "fid_difference": ColumnStyle(
        "FID change from row above",
        2,
        "low",
        spread=False,
        signed=True,
        meaning="Mean FID minus that of the student in the row above; below zero is better.",
    ),
    "best_fid": ColumnStyle(
        "Best FID (block it was chosen on) ↓",
        2,
        "low",
        meaning="FID of every run's best snapshot on the block that chose it; the choice makes it too low.",
    ),
    "best_fid_fresh": ColumnStyle(
        "Best FID (fresh blocks) ↓",
        2,
        "low",
        meaning="FID of the same snapshots on the other blocks of latents, which had no part in the choice.",
    ),
    "final_fid_fresh": ColumnStyle(
        "Final FID (fresh blocks) ↓",
        2,
        "low",
        meaning="FID of the last snapshots on those other blocks, for comparison.",
    ),
    "fid_minimum": ColumnStyle(
        "Lowest FID ↓",
        2,
        "low",
        meaning="The lowest FID over the blocks of latents, as EDM and others report it; a mean over runs.",
    ),
    "kid": ColumnStyle("KID ↓", 5, "low"),
    "inception_score": ColumnStyle("Inception Score ↑", 2, "high"),
    "clean_fid": ColumnStyle("Clean FID ↓", 2, "low"),
    "clean_kid": ColumnStyle("Clean KID ↓", 5, "low"),
    "clip_fid": ColumnStyle("CLIP-FID ↓", 2, "low"),
    "fd_dinov2": ColumnStyle("FD-DINOv2 ↓", 1, "low"),
    "precision": ColumnStyle("Precision ↑", 3, "high"),
    "recall": ColumnStyle("Recall ↑", 3, "high"),
    "density": ColumnStyle("Density ↑", 3, "high"),
    "coverage": ColumnStyle("Coverage ↑", 3, "high"),
    "pixel_fid": ColumnStyle("Pixel FID ↓", 2, "low"),
    "pixel_precision": ColumnStyle("Pixel precision ↑", 3, "high"),
    "pixel_recall": ColumnStyle("Pixel recall ↑", 3, "high"),
    "pixel_density": ColumnStyle("Pixel density ↑", 3, "high"),
    "pixel_coverage": ColumnStyle("Pixel coverage ↑", 3, "high"),
    "nearest": ColumnStyle("Nearest real (1 = real)", 2),
    "evaluations": ColumnStyle("Network evaluations", spread=False),
    "trainable": ColumnStyle("Trainable", spread=False),
    "images": ColumnStyle("Images", spread=False),
    "seconds": ColumnStyle(
        "Seconds",
        meaning="Training time of the student on the machine at hand, two jobs side by side; without the "
        "teacher's training and without solving pairs for direct imitation.",
    ),
}


def column_title(column: str) -> str:
    """Return a column's heading, with an arrow towards better."""
    return COLUMNS[column].title


@dataclass(frozen=True)
class Look:
    """Colour, marker and dash of one row in every figure."""

    colour: str
    marker: str
    dash: Any


def looks(rows: Sequence[TableRow], config: Config) -> list[Look]:
    """Return the look of each row: its method's colour and marker, others and dashes if it comes again.

    The teacher is dashed, in black and then greys.
    """
    result = []
    seen: dict[tuple[str, str | None], int] = {}
    for row in rows:
        key = (row.setting, row.method)
        nth = seen.get(key, 0)
        seen[key] = nth + 1
        if row.method is None:
            result.append(Look(TEACHER[min(nth, len(TEACHER) - 1)], "", (0, (6, 3))))
        else:
            method = config.methods[row.method]
            marker = MARKERS[(MARKERS.index(method.marker) + nth) % len(MARKERS)]
            result.append(Look(method.colour, marker, DASHES[nth % len(DASHES)]))
    return result


def log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers: 0.5, 1, 2, 5, 10."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def explain_below(figure: Figure, handles: Sequence[Line2D | Patch]) -> None:
    """Write below the axes what marks, lines and bars are; a mark "|" on a line stands at both its ends."""
    from matplotlib.legend_handler import HandlerLine2D
    from matplotlib.lines import Line2D

    capped: dict[Any, HandlerLine2D] = {
        handle: HandlerLine2D(numpoints=2, marker_pad=0)
        for handle in handles
        if isinstance(handle, Line2D) and handle.get_marker() == "|" and handle.get_linestyle() != "None"
    }
    if handles:
        figure.legend(handles=handles, loc="outside lower left", frameon=False, handler_map=capped)


def sampling_handle(words: str) -> Line2D:
    """Return what stands for the sampling spread in an explanation."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=FLOOR, linewidth=1.4, marker="|", markersize=8, label=words)


def save_figure(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write `<stem>.png` (200 dpi) and `<stem>.pdf`; the same figure gives the same bytes."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every glyph it embeds
    png, pdf = (stem.parent / f"{stem.name}.{ending}" for ending in ("png", "pdf"))
    with atomic_path(png) as path:
        figure.savefig(path, metadata={"Software": None})
    with atomic_path(pdf) as path:
        figure.savefig(path, metadata={"CreationDate": None, "Producer": None, "Creator": None})
    return png, pdf
