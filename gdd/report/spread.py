"""Every run of a table as a mark, with the mean and both spreads of every row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gdd.config.metrics import columns
from gdd.errors import UserError
from gdd.experiments import Experiments
from gdd.paths import figure_files
from gdd.report.style import (
    GREY,
    MARKERS,
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
from gdd.report.wording import cell_text, designs

COLUMN = "fid"
ROW = 0.6  # inches
AROUND = 2.1  # inches for the axis and the explanation
# At what height of a row each stands; the runs of different teachers apart, so that fewer hide others.
RUNS, MEAN, TRAINING, SAMPLING, TEACHERS = -0.24, 0.17, 0.09, 0.26, 0.17
RUN_MARK: dict[str, Any] = {"linestyle": "", "markeredgecolor": "white", "alpha": 0.85}
MEAN_MARK: dict[str, Any] = {"linestyle": "", "marker": "|", "markersize": 15, "markeredgewidth": 2.4}
TRAINING_BAR: dict[str, Any] = {"linewidth": 5.0, "alpha": 0.45, "solid_capstyle": "butt"}

Lines = list[tuple[Line, Look]]


def plot_spread(experiments: Experiments, name: str) -> list[Path]:
    """Draw the FID of every run of a table as PNG and PDF; one panel per setting.

    Raises:
        UserError: an input file is missing, or no run of a setting has an FID.
    """
    table = build_table(experiments, name)
    pictured = pictured_lines(table, experiments.config)
    lines = [(line, look) for line, look in pictured if table.cell(line, COLUMN)]
    panels = {setting: [of for of in lines if of[0].row.setting == setting] for setting in table.settings}
    rows = [sum(line.trained for line, _ in inside) for inside in panels.values()]
    if 0 in rows:
        raise UserError(
            f"No run of '{name}' in the setting '{list(panels)[rows.index(0)]}' has an FID; "
            f"delete the metrics.json of its runs and run `snakemake --cores 2 {name}`."
        )
    # The same mark for a teacher in all panels.
    teachers = dict.fromkeys(teacher for line in table.students() for teacher, _ in line.keys if teacher)
    shapes = {teacher: MARKERS[index % len(MARKERS)] for index, teacher in enumerate(teachers)}
    with matplotlib.rc_context({**RC, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(WIDTH, ROW * sum(rows) + AROUND * len(rows)))
        axes = figure.subplots(len(rows), 1, squeeze=False, height_ratios=[n + 1 for n in rows])[:, 0]
        for panel, (setting, inside) in zip(axes, panels.items(), strict=True):
            _draw(panel, table, inside, shapes)
            if len(rows) > 1:
                panel.set_title(table.settings[setting], loc="left")
        _explain(figure, axes[0], table, lines, shapes)
        return save_figure(figure, figure_files(name, "spread"))


def fids(table: Table, lines: Lines) -> pd.DataFrame:
    """Return line, teacher and value of the students' runs among the lines."""
    students = [line.number for line, _ in lines if line.trained]
    return table.runs[(table.runs["column"] == COLUMN) & table.runs["line"].isin(students)]


def _draw(axes: Axes, table: Table, lines: Lines, shapes: dict[str, str]) -> None:
    runs = fids(table, lines)
    low, high = visible = runs["value"].min(), runs["value"].max()
    names: list[str] = []
    middle = (len(shapes) - 1) / 2
    for line, look in lines:
        cell = table.cells[line.number, COLUMN]
        mean, training, row = cell.mean, cell.training_std, len(names)
        if not line.trained:
            if near(mean, low, high):
                axes.axvline(mean, color=look.colour, linestyle=look.dash, linewidth=1.5, zorder=1.5)
                visible = (min(visible[0], mean), max(visible[1], mean))
            continue
        for index, (teacher, marker) in enumerate(shapes.items()):
            values = runs.loc[(runs["line"] == line.number) & (runs["teacher"] == teacher), "value"]
            height = row + RUNS + TEACHERS * (index - middle) / max(2 * middle, 1)
            axes.plot(values, [height] * len(values), marker=marker, color=look.colour, **RUN_MARK)
        axes.plot([mean - training, mean + training], [row + TRAINING] * 2, color=look.colour, **TRAINING_BAR)
        axes.errorbar(mean, row + SAMPLING, xerr=cell.sampling_std, color=look.colour, **SAMPLING_BAR)
        axes.plot([mean], [row + MEAN], color=look.colour, **MEAN_MARK)
        names.append(f"{line.title}\n{cell_text(table, line, COLUMN).value}")
    set_scale(axes, "x", *visible)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0, labelcolor="black")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"{columns()[COLUMN].title} (lower is better)")


def _explain(figure: Figure, axes: Axes, table: Table, lines: Lines, shapes: dict[str, str]) -> None:
    """Say below the axes what marks, bars and lines are."""
    handles: list[Any] = []

    def explain(words: str, **look: Any) -> None:
        handles.append(Line2D([], [], label=words, **{"color": GREY, **look}))

    for teacher, marker in shapes.items():
        words = f"A run, from the teacher {teacher}" if len(shapes) > 1 else "A run"
        explain(words, marker=marker, **RUN_MARK)
    explain("Mean over the runs", **MEAN_MARK)
    if over := designs(table.students()):
        explain(f"Training spread (standard deviation over {over})", **TRAINING_BAR)
    if (blocks := max(line.blocks for line in table.students())) > 1:
        words = f"Sampling spread (standard deviation over {blocks} blocks of latents)"
        handles.append(explained_bar(axes, "x", words))
    values = fids(table, lines)["value"]
    for line, look in lines if len(table.settings) == 1 else []:
        if not line.trained:
            words = f"{line.title}: {cell_text(table, line, COLUMN).value}"
            words += f", mean of {designs([line])}" if len(line.keys) > 1 else ""
            shown = near(table.cells[line.number, COLUMN].mean, values.min(), values.max())
            words += "" if shown else ", off scale"
            explain(words, color=look.colour, linestyle=look.dash, linewidth=1.5)
    figure.legend(handles=handles, loc="outside lower left")
