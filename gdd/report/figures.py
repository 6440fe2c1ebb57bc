"""How figures look, and the grid of images: a line for every row of a table, from the same latents."""

from __future__ import annotations

import logging
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gdd.config.config import Config
from gdd.errors import UserError, in_a_line
from gdd.experiments import Experiments, TableRow, pictured
from gdd.files import BROKEN_ARRAYS, atomic_path, require_bounded
from gdd.paths import figure_files
from gdd.report.table import require

TEACHER = ("#000000", "#6e6e6e", "#9a9a9a")  # black first, then greys for further step counts
GREY = "#6e6e6e"  # the floor, and whatever an explanation shows
MARKERS = "osD^vPX*"
DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))  # tells rows of one method apart
WIDTH = 8.0  # inches: the reading width of the page and of a paper, so that points are points
COLUMNS = 12  # of images
GAP = 0.08  # between images, in image widths
LABEL = 1.9  # inches for the rows' names beside images
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
    "text.parse_math": False,  # a dollar sign in somebody's title is a dollar sign
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
    before: Counter[tuple[str, str | None]] = Counter()
    for row in rows:
        nth = before[row.setting, row.method]
        before[row.setting, row.method] += 1
        if row.method is not None:
            method = config.methods[row.method]
            marker = MARKERS[(MARKERS.index(method.marker) + nth) % len(MARKERS)]
            result.append(Look(method.colour, marker, DASHES[nth % len(DASHES)]))
        elif row.teacher_steps or row.external:
            result.append(Look(TEACHER[min(nth, len(TEACHER) - 1)], "", (0, (6, 3))))
        else:
            result.append(Look(GREY, "", ":"))
    return result


def save_figure(figure: Figure, table: str, kind: str) -> list[Path]:
    """Write a figure as PNG (200 dpi) and as PDF; the same figure gives the same bytes."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs every glyph it embeds
    files = figure_files(table, kind)
    for file, dated in zip(files, (("Software",), ("CreationDate", "Producer", "Creator")), strict=True):
        with atomic_path(file) as path:
            figure.savefig(path, metadata=dict.fromkeys(dated))
    return files


def plot_samples(experiments: Experiments, name: str) -> list[Path]:
    """Draw a grid with one line of images per row of the table as PNG and PDF.

    Raises:
        UserError: an input file is missing.
    """
    rows = pictured(experiments.rows(name))
    images = [_read_images(require(row.samples(), name)) for row in rows]
    count = min(COLUMNS, *map(len, images))
    several = len({row.setting for row in rows}) > 1
    tile = (WIDTH - LABEL) / (count + (count - 1) * GAP)  # inches
    with matplotlib.rc_context({**RC, "axes.grid": False, "figure.constrained_layout.use": False}):
        figure = Figure(figsize=(WIDTH, tile * (len(rows) + (len(rows) - 1) * GAP)))
        # The same gap between rows as between columns, and room for the names.
        panels = figure.subplots(
            len(rows),
            1,
            squeeze=False,
            gridspec_kw={"left": LABEL / WIDTH, "right": 1, "bottom": 0, "top": 1, "hspace": GAP},
        )
        for axes, row, of_row in zip(panels[:, 0], rows, images, strict=True):
            axes.imshow(strip(of_row[:count]), cmap="gray", vmin=0, vmax=255, interpolation="none")
            axes.set(aspect="auto", xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            titles = [row.title, *([experiments.config.settings[row.setting].title] if several else [])]
            text = "\n".join(part for title in titles for part in textwrap.wrap(title, 20))
            axes.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=11)
        return save_figure(figure, name, "samples")


def _read_images(path: Path) -> NDArray[np.uint8]:
    try:
        require_bounded(path)
        with np.load(path, allow_pickle=False) as file:
            images: NDArray[np.uint8] = file["images"]
    except BROKEN_ARRAYS as error:
        raise UserError(f"{path} cannot be read ({in_a_line(error)}); delete it and make it again.") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
        raise UserError(f"{path} holds no images [N, H, W, C] of 8 bits; delete it and make it again.")
    return images


def strip(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay images [N, H, W, C] side by side on white: [H', W'] or [H', W', 3].

    They are enlarged here, by whole pixels, because PDF viewers blur images this small.
    """
    scale = -(-96 // images.shape[1])
    large = images.repeat(scale, axis=1).repeat(scale, axis=2)
    gap = max(1, round(GAP * large.shape[2]))
    spaced = np.pad(large, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
    row = np.concatenate(list(spaced), axis=1)[:, :-gap]
    return row[:, :, 0] if row.shape[2] == 1 else row
