"""A metric against the images seen, with the teacher and the floor as levels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from gdd.config.metrics import columns
from gdd.errors import UserError
from gdd.experiments import Experiments
from gdd.paths import figure_files
from gdd.report.style import (
    GREY,
    RC,
    SAMPLING_BAR,
    WIDTH,
    Look,
    explained_bar,
    near,
    pictured_lines,
    save_figure,
    set_scale,
)
from gdd.report.table import Line, Table, build_table
from gdd.report.wording import designs, number

HEIGHT = 4.4  # inches


def plot_curve(experiments: Experiments, name: str) -> list[Path]:
    """Draw the curve of a table as PNG and PDF; one panel per setting.

    Raises:
        UserError: the table has no `curve`, an input file is missing, or no run has a curve.
    """
    curve = experiments.config.ablations[name].curve
    if curve is None:
        where = experiments.config.where("ablations", name)
        raise UserError(f"{where} asks for no curve; add `curve: fid` to it.")
    table = build_table(experiments, name)
    lines = pictured_lines(table, experiments.config)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(WIDTH, HEIGHT * len(table.settings)))
        panels = figure.subplots(len(table.settings), 1, squeeze=False)[:, 0]
        for axes, (setting, title) in zip(panels, table.settings.items(), strict=True):
            _draw(axes, table, [(line, look) for line, look in lines if line.row.setting == setting], curve)
            if len(panels) > 1:
                axes.set_title(title, loc="left")
        _explain_spreads(figure, panels[0], table)
        return save_figure(figure, figure_files(name, "curve"))


def curve_of(table: Table, line: Line, metric: str) -> pd.DataFrame:
    """Return a row's mean and training spread `std` over runs, by image count, on the first block of latents.

    Only counts at which every run has a value: elsewhere a step could come from a run dropping out.
    """
    numbers = table.numbers
    points = numbers[
        (numbers["line"] == line.number)
        & (numbers["metric"] == metric)
        & (numbers["block"] == 0)
        & numbers["snapshot"].str.isdigit()
    ]
    points = points.assign(images=points["snapshot"].astype(int))
    runs = points.pivot(index="images", columns="entry", values="value")
    runs = runs.reindex(columns=range(len(line.evaluated))).dropna()
    return pd.DataFrame({"mean": runs.mean(axis="columns"), "std": runs.std(axis="columns")})


def _draw(axes: Axes, table: Table, lines: list[tuple[Line, Look]], metric: str) -> None:
    curves = [(line, look, curve_of(table, line, metric)) for line, look in lines if line.trained]
    curves = [(line, look, curve) for line, look, curve in curves if len(curve)]
    if not curves:
        raise UserError(
            f"No run of '{table.name}' in the setting '{lines[0][0].row.setting}' has a curve of '{metric}'; "
            f"run `snakemake --cores 2 {table.name}`, or remove 'curve' from its file."
        )
    means = pd.concat([curve["mean"] for _, _, curve in curves])
    low, high = visible = means.min(), means.max()
    ends: list[tuple[float, Artist]] = []
    for line, look, curve in curves:
        mean, std, colour = curve["mean"], curve["std"], look.colour
        (drawn,) = axes.plot(mean.index, mean, color=colour, marker=look.marker, linestyle=look.dash)
        drawn.set_label(line.title)
        axes.fill_between(mean.index, mean - std, mean + std, color=colour, alpha=0.18, linewidth=0)
        ends.append((mean.iloc[-1], drawn))
    for line, look in lines:
        cell = table.cell(line, metric)
        if line.trained or cell is None:
            continue
        level = cell.mean
        shown = near(level, low, high)
        visible = (min(visible[0], level), max(visible[1], level)) if shown else visible
        # A line off the scale is not seen, but named with the others.
        label = line.title if shown else f"{line.title}:\n{number(level, metric)}, off scale"
        drawn = axes.axhline(level, label=label, color=look.colour, linestyle=look.dash, linewidth=1.5)
        ends.append((level, drawn))
    set_scale(axes, "y", *visible)
    _sampling_bars(axes, table, curves, metric)
    axes.set(xlabel="Images seen in training", ylabel=columns()[metric].heading)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.locator_params(axis="x", nbins=6)
    # In the order in which the lines end, so that a name is found near the height of its line.
    handles = [drawn for _, drawn in sorted(ends, key=lambda end: -end[0])]
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), labelspacing=0.9)


def _sampling_bars(
    axes: Axes, table: Table, curves: list[tuple[Line, Look, pd.DataFrame]], metric: str
) -> None:
    """Draw the sampling spread of the ends beside each other just right of them, where nothing covers it."""
    end = max(int(curve.index[-1]) for _, _, curve in curves)
    axes.set_xlim(left=0)
    for index, (line, look, curve) in enumerate(curves):
        cell = table.cell(line, metric)
        if cell and not math.isnan(cell.sampling_std):
            at = curve.index[-1] + end * (0.015 + 0.06 * (index + 0.5) / len(curves))
            axes.errorbar(at, curve["mean"].iloc[-1], cell.sampling_std, color=look.colour, **SAMPLING_BAR)
            axes.set_xlim(right=end * 1.085)


def _explain_spreads(figure: Figure, axes: Axes, table: Table) -> None:
    """Say below the axes what band and bar are, as far as there are any."""
    handles: list[Any] = []
    if over := designs(table.students()):
        words = f"Band: training spread (standard deviation over {over})"
        handles.append(Patch(color=GREY, alpha=0.3, linewidth=0, label=words))
    if (blocks := max(line.blocks for line in table.students())) > 1:
        words = f"Bar at the end: sampling spread (standard deviation over {blocks} blocks of latents)"
        handles.append(explained_bar(axes, "y", words))
    if handles:
        figure.legend(handles=handles, loc="outside lower left")
