"""Images of every row of a table, made from the same latents column by column."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gdd.experiments import Experiments, pictured
from gdd.paths import figure_files
from gdd.report.numbers import require
from gdd.report.style import RC, WIDTH, save_figure

Images = NDArray[np.uint8]
COLUMNS = 12
GAP = 0.08  # between images, in image widths
LABEL = 1.9  # inches for the rows' names


def plot_samples(experiments: Experiments, name: str) -> list[Path]:
    """Draw a grid with one line of images per row of the table as PNG and PDF.

    Raises:
        UserError: an input file is missing.
    """
    rows = pictured(experiments.rows(name))
    images = [read_images(require(row.samples(), name)) for row in rows]
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
        return save_figure(figure, figure_files(name, "samples"))


def read_images(path: Path) -> Images:
    """Read the images [N, H, W, C] of a sample file."""
    with np.load(path) as file:
        images: Images = file["images"]
    return images


def strip(images: Images) -> Images:
    """Lay images [N, H, W, C] side by side on white: [H', W'] or [H', W', 3].

    They are enlarged here, by whole pixels, because PDF viewers blur images this small.
    """
    scale = -(-96 // images.shape[1])
    large = images.repeat(scale, axis=1).repeat(scale, axis=2)
    gap = max(1, round(GAP * large.shape[2]))
    spaced = np.pad(large, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
    row = np.concatenate(list(spaced), axis=1)[:, :-gap]
    return row[:, :, 0] if row.shape[2] == 1 else row
