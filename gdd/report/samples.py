"""Images of every row of a table, made from the same latents column by column."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gdd.errors import UserError
from gdd.experiments import Experiments, pictured
from gdd.report.inputs import require, sample_file
from gdd.report.style import RC, WIDTH, save_figure

Images = NDArray[np.uint8]
COLUMNS = 12
GAP = 0.08  # between images, in image widths
LABEL = 1.9  # inches for the rows' names


def plot_samples(experiments: Experiments, name: str, results: Path, out_stem: Path) -> tuple[Path, Path]:
    """Draw a grid with one line of images per row of the table as `<out_stem>.png` and `.pdf`.

    Raises:
        UserError: an input file is missing or holds no images.
    """
    rows = pictured(experiments.rows(name))
    strips = [read_images(require(results, sample_file(row), name)) for row in rows]
    several = len({row.setting for row in rows}) > 1
    titles = [
        f"{row.title}\n{experiments.config.settings[row.setting].title}" if several else row.title
        for row in rows
    ]
    import matplotlib
    from matplotlib.figure import Figure

    count = min(COLUMNS, *(len(images) for images in strips))
    width = WIDTH - LABEL
    tile = width / (count + (count - 1) * GAP)
    height = tile * (len(rows) + (len(rows) - 1) * GAP)
    # Placed by hand: the same gap between rows as between columns, and room for the names.
    with matplotlib.rc_context({**RC, "figure.constrained_layout.use": False}):
        figure = Figure(figsize=(WIDTH, height))
        for index, (title, images) in enumerate(zip(titles, strips, strict=True)):
            top = 1 - index * tile * (1 + GAP) / height
            axes = figure.add_axes((LABEL / WIDTH, top - tile / height, width / WIDTH, tile / height))
            axes.imshow(strip(images[:count]), cmap="gray", vmin=0, vmax=255, interpolation="none")
            axes.set_aspect("auto")
            axes.set_axis_off()
            name = "\n".join(part for line in title.split("\n") for part in textwrap.wrap(line, 20))
            at = ((LABEL - 0.12) / WIDTH, top - tile / height / 2)
            figure.text(*at, name, ha="right", va="center", fontsize=11)
        return save_figure(figure, out_stem)


def read_images(path: Path) -> Images:
    """Read the images [N, H, W, C] of a sample file.

    Raises:
        UserError: it holds none, or another shape or type.
    """
    try:
        with np.load(path) as file:
            images = file["images"]
    except (KeyError, ValueError, OSError) as error:
        raise UserError(f"{path} holds no images ({error}); delete it and make it again.") from None
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] not in (1, 3) or not len(images):
        raise UserError(
            f"{path} holds {images.dtype} {list(images.shape)}, not uint8 images [N, H, W, 1 or 3]; "
            "delete it and make it again."
        )
    return images


def strip(images: Sequence[Images] | Images) -> Images:
    """Lay images [N, H, W, C] side by side on white: [H', W'] or [H', W', 3].

    They are enlarged here, by whole pixels, because PDF viewers blur images this small.
    """
    height, width, channels = images[0].shape
    scale = max(1, -(-96 // height))
    gap = max(1, round(GAP * width * scale))
    canvas = np.full(
        (height * scale, len(images) * (width * scale + gap) - gap, channels), 255, dtype=np.uint8
    )
    for index, image in enumerate(images):
        left = index * (width * scale + gap)
        canvas[:, left : left + width * scale] = image.repeat(scale, axis=0).repeat(scale, axis=1)
    return canvas[:, :, 0] if channels == 1 else canvas
