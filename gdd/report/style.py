"""How figures look: one colour a method, marks and dashes that tell rows apart, and the two spreads."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from gdd.config.config import Config
from gdd.experiments import TableRow, pictured
from gdd.files import atomic_path
from gdd.report.table import Line, Table

TEACHER = ("#000000", "#6e6e6e", "#9a9a9a")  # black first, then greys for further step counts
GREY = "#6e6e6e"  # the floor, and whatever an explanation shows
MARKERS = "osD^vPX*"
DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))  # tells rows of one method apart
# The two spreads never look alike: the training spread is a band or a thick bar, this one thin with caps.
SAMPLING_BAR: dict[str, Any] = {"linestyle": "", "elinewidth": 1.4, "capsize": 3.5, "capthick": 1.4}
WIDTH = 8.0  # inches: the reading width of the page and of a paper, so that points are points
RC: dict[Any, Any] = {
    "font.size": 11,
    "axes.labelsize": 12,
    "axes.titlesize": 12,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same figure on every machine
    "axes.edgecolor": "#555555",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e3e3e3",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 6.5,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # text stays text in the PDF
}


@dataclass(frozen=True)
class Look:
    """Colour, marker and dash of one row in every figure."""

    colour: str
    marker: str
    dash: Any


def looks(rows: Sequence[TableRow], config: Config) -> list[Look]:
    """Return the look of each row: its method's colour and marker, others and dashes if it comes again.

    The teacher is dashed, in black and then greys; real images are dotted.
    """
    result = []
    seen: Counter[tuple[str, str | None]] = Counter()
    for row in rows:
        nth = seen[row.setting, row.method]
        seen[row.setting, row.method] += 1
        if row.method is not None:
            method = config.methods[row.method]
            marker = MARKERS[(MARKERS.index(method.marker) + nth) % len(MARKERS)]
            result.append(Look(method.colour, marker, DASHES[nth % len(DASHES)]))
        elif row.teacher_steps or row.external:
            result.append(Look(TEACHER[min(nth, len(TEACHER) - 1)], "", (0, (6, 3))))
        else:
            result.append(Look(GREY, "", ":"))
    return result


def pictured_lines(table: Table, config: Config) -> list[tuple[Line, Look]]:
    """Return the lines that a figure shows: of those on snapshots of the same runs, one; and floors."""
    rows = pictured([line.row for line in table.lines])
    found = looks(rows, config)
    return [(line, found[rows.index(line.row)]) for line in table.lines if line.row in rows]


def near(value: float, low: float, high: float) -> bool:
    """Whether a level lies within a decade of what is drawn, so that its line does not squeeze it."""
    return low / 10 <= value <= high * 10


def set_scale(axes: Axes, axis: str, low: float, high: float) -> None:
    """Set the limits of an axis from means and levels alone: a bar must not stretch a logarithmic axis."""
    if low <= 0 or high / low <= 10:
        axes.set(**{f"{axis}lim": (min(0, low), high * 1.08)})
        return
    axes.set(**{f"{axis}scale": "log", f"{axis}lim": (low / 1.3, high * 1.3)})
    ticks = axes.xaxis if axis == "x" else axes.yaxis
    ticks.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ticks.set_major_formatter(lambda value, _: f"{value:g}")  # 0.5, 1, 2, 5, 10
    ticks.set_minor_formatter(NullFormatter())


def explained_bar(axes: Axes, axis: str, words: str) -> Any:
    """Return what stands for the sampling spread in a legend, which takes its caps from a bar in the axes."""
    nowhere: dict[str, Any] = {"x": [np.nan], "y": [np.nan], f"{axis}err": [np.nan]}
    return axes.errorbar(**nowhere, color=GREY, label=words, **SAMPLING_BAR)


def save_figure(figure: Figure, files: list[Path]) -> list[Path]:
    """Write a figure as PNG (200 dpi) and as PDF; the same figure gives the same bytes."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every glyph it embeds
    png, pdf = files
    with atomic_path(png) as path:
        figure.savefig(path, metadata={"Software": None})
    with atomic_path(pdf) as path:
        figure.savefig(path, metadata={"CreationDate": None, "Producer": None, "Creator": None})
    return files
