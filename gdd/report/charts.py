"""Charts of a table: a metric against the images seen, and the FID of every run; a panel for each setting."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

from gdd.config.config import Config
from gdd.config.metrics import columns
from gdd.errors import UserError
from gdd.experiments import Experiments, pictured
from gdd.report.figures import GREY, MARKERS, RC, WIDTH, Look, looks, save_figure
from gdd.report.notes import designs
from gdd.report.table import Cell, Line, Table, build_table
from gdd.report.table_files import cell_text

HEIGHT = 4.4  # inches, of a panel of curves
ROW = 0.6  # inches, of a row of runs
AROUND = 2.1  # inches for the axis and the explanation
# At what height of a row each stands; the runs of different teachers apart, so that fewer hide others.
RUNS, MEAN, TRAINING, SAMPLING, TEACHERS = -0.24, 0.17, 0.09, 0.26, 0.17
RUN_MARK: dict[str, Any] = {"linestyle": "", "markeredgecolor": "white", "alpha": 0.85}
MEAN_MARK: dict[str, Any] = {"linestyle": "", "marker": "|", "markersize": 15, "markeredgewidth": 2.4}
# The two spreads never look alike: the training spread is a band or a thick bar, the other thin with caps.
TRAINING_BAR: dict[str, Any] = {"linewidth": 5.0, "alpha": 0.45, "solid_capstyle": "butt"}
SAMPLING_BAR: dict[str, Any] = {"linestyle": "", "elinewidth": 1.4, "capsize": 3.5, "capthick": 1.4}

Lines = list[tuple[Line, Look]]


def plot_curve(experiments: Experiments, name: str) -> list[Path]:
    """Draw the curve of a table as PNG and PDF, with the teacher and the floor as levels.

    Raises:
        UserError: the table has no `curve`, an input file is missing, or no run has a curve.
    """
    curve = experiments.config.ablations[name].curve
    if curve is None:
        where = experiments.config.where("ablations", name)
        raise UserError(f"{where} asks for no curve; add `curve: fid` to it.")
    table = build_table(experiments, name)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(WIDTH, HEIGHT * len(table.settings)))
        panels = figure.subplots(len(table.settings), 1, squeeze=False)[:, 0]
        for axes, lines in zip(panels, lines_by_setting(table, experiments.config).values(), strict=True):
            _draw_curves(axes, table, lines, curve)
        _title(panels, table)
        handles: list[Any] = []
        if over := designs(table.students()):
            words = f"Band: training spread (standard deviation over {over})"
            handles.append(Patch(color=GREY, alpha=0.3, linewidth=0, label=words))
        _explain_sampling(handles, panels[0], "y", table, "Bar at the end: mean and sampling spread")
        if handles:
            figure.legend(handles=handles, loc="outside lower left")
        return save_figure(figure, name, "curve")


def plot_spread(experiments: Experiments, name: str) -> list[Path]:
    """Draw the FID of every run of a table as PNG and PDF, with the mean and both spreads of every row.

    Raises:
        UserError: an input file is missing, or no run of a setting has an FID.
    """
    table = build_table(experiments, name)
    known = {
        setting: [(line, look) for line, look in lines if table.cell(line, "fid")]
        for setting, lines in lines_by_setting(table, experiments.config).items()
    }
    rows = [sum(line.trained for line, _ in lines) for lines in known.values()]
    if 0 in rows:
        raise UserError(
            f"No run of '{name}' in the setting '{list(known)[rows.index(0)]}' has an FID; "
            f"delete the metrics.json of its runs and run `snakemake --cores 2 {name}`."
        )
    # The same mark for a teacher in all panels.
    teachers = dict.fromkeys(teacher for line in table.students() for teacher, _ in line.keys if teacher)
    marks = {teacher: MARKERS[index % len(MARKERS)] for index, teacher in enumerate(teachers)}
    with matplotlib.rc_context({**RC, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(WIDTH, ROW * sum(rows) + AROUND * len(rows)))
        panels = figure.subplots(len(rows), 1, squeeze=False, height_ratios=[n + 1 for n in rows])[:, 0]
        for axes, lines in zip(panels, known.values(), strict=True):
            _draw_runs(axes, table, lines, marks)
        _title(panels, table)
        handles = _explanations(panels[0], table, known, marks)
        figure.legend(handles=handles, loc="outside lower left")
        return save_figure(figure, name, "spread")


def lines_by_setting(table: Table, config: Config) -> dict[str, Lines]:
    """Return the lines that a chart shows: of those on snapshots of the same runs, one; and floors."""
    rows = pictured([line.row for line in table.lines])
    found = looks(rows, config)
    lines = [(line, found[rows.index(line.row)]) for line in table.lines if line.row in rows]
    return {setting: [of for of in lines if of[0].row.setting == setting] for setting in table.settings}


def curve_of(table: Table, line: Line, metric: str) -> pd.DataFrame:
    """Return a row's mean and training spread `std` over runs, by image count, on the first block of latents.

    Only counts at which every run has a value: elsewhere a step could come from a run dropping out.
    """
    values = table.values
    points = values[
        (values["line"] == line.number)
        & (values["metric"] == metric)
        & (values["block"] == 0)
        & values["snapshot"].str.isdigit()
    ]
    points = points.assign(images=points["snapshot"].astype(int))
    runs = points.pivot(index="images", columns="entry", values="value")
    runs = runs.reindex(columns=range(len(line.evaluated))).dropna()
    return pd.DataFrame({"mean": runs.mean(axis="columns"), "std": runs.std(axis="columns")})


def levels(
    table: Table, lines: Lines, column: str, values: pd.Series
) -> list[tuple[Line, Look, float, bool]]:
    """Return rows that were not trained here with their means, and whether these are near the values.

    That is within a decade: a line further off would squeeze what is drawn.
    """
    low, high = values.min() / 10, values.max() * 10
    cells = [(line, look, table.cell(line, column)) for line, look in lines if not line.trained]
    return [(line, look, cell.mean, low <= cell.mean <= high) for line, look, cell in cells if cell]


def _draw_curves(axes: Axes, table: Table, lines: Lines, metric: str) -> None:
    curves = [(line, look, curve_of(table, line, metric)) for line, look in lines if line.trained]
    curves = [(line, look, curve) for line, look, curve in curves if len(curve)]
    if not curves:
        raise UserError(
            f"No run of '{table.name}' in the setting '{lines[0][0].row.setting}' has a curve of '{metric}'; "
            f"run `snakemake --cores 2 {table.name}`, or remove 'curve' from its file."
        )
    ends: list[tuple[float, Artist]] = []
    for line, look, curve in curves:
        mean, std, colour = curve["mean"], curve["std"], look.colour
        (drawn,) = axes.plot(mean.index, mean, color=colour, marker=look.marker, linestyle=look.dash)
        drawn.set_label(line.row.title)
        axes.fill_between(mean.index, mean - std, mean + std, color=colour, alpha=0.18, linewidth=0)
        ends.append((mean.iloc[-1], drawn))
    means = pd.concat([curve["mean"] for _, _, curve in curves])
    beside = levels(table, lines, metric, means)
    for line, look, level, shown in beside:
        # A line off the scale is not drawn, but named with the others.
        off = "" if shown else f":\n{columns()[metric].write(level)}, off scale"
        style: dict[str, Any] = {"color": look.colour, "linestyle": look.dash, "linewidth": 1.5}
        ends.append((level, axes.axhline(level, label=line.row.title + off, **style)))
    cells = {line.number: cell for line, *_ in curves if (cell := _at_the_end(table, line, metric))}
    known = [*(cell.mean for cell in cells.values()), *(level for *_, level, shown in beside if shown)]
    _set_scale(axes, "y", [*means, *known])
    # Means over all blocks with their sampling spreads stand beside each other just right of the ends, which
    # are of the first block.
    last = max(int(curve.index[-1]) for _, _, curve in curves)
    axes.set_xlim(left=0)
    for index, (line, look, curve) in enumerate(curves):
        if cell := cells.get(line.number):
            at = curve.index[-1] + last * (0.015 + 0.06 * (index + 0.5) / len(curves))
            axes.errorbar(at, cell.mean, cell.sampling_std, color=look.colour, **SAMPLING_BAR)
            axes.set_xlim(right=last * 1.085)
    axes.set(xlabel="Images seen in training", ylabel=columns()[metric].heading)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.locator_params(axis="x", nbins=6)
    # In the order in which the lines end, so that a name is found near the height of its line.
    handles = [drawn for _, drawn in sorted(ends, key=lambda end: -end[0])]
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), labelspacing=0.9)


def _at_the_end(table: Table, line: Line, metric: str) -> Cell | None:
    """Return a row's mean over all blocks, if it shows the last snapshot and has a sampling spread."""
    cell = table.cell(line, metric)
    at_the_end = line.row.at in ("end", line.row.runs[0].recipe.images)
    return cell if cell and at_the_end and not math.isnan(cell.sampling_std) else None


def _draw_runs(axes: Axes, table: Table, lines: Lines, marks: dict[str, str]) -> None:
    runs, middle = _fids(table, lines), (len(marks) - 1) / 2
    names: list[str] = []
    for line, look in lines:
        if not line.trained:
            continue
        cell, row = table.cells[line.number, "fid"], len(names)
        for index, (teacher, marker) in enumerate(marks.items()):
            values = runs.loc[(runs["line"] == line.number) & (runs["teacher"] == teacher), "value"]
            height = row + RUNS + TEACHERS * (index - middle) / max(2 * middle, 1)
            axes.plot(values, [height] * len(values), marker=marker, color=look.colour, **RUN_MARK)
        ends = [cell.mean - cell.training_std, cell.mean + cell.training_std]
        axes.plot(ends, [row + TRAINING] * 2, color=look.colour, **TRAINING_BAR)
        axes.errorbar(cell.mean, row + SAMPLING, xerr=cell.sampling_std, color=look.colour, **SAMPLING_BAR)
        axes.plot([cell.mean], [row + MEAN], color=look.colour, **MEAN_MARK)
        names.append(f"{line.row.title}\n{cell_text(table, line, 'fid').value}")
    near = [(look, level) for _, look, level, shown in levels(table, lines, "fid", runs["value"]) if shown]
    for look, level in near:
        axes.axvline(level, color=look.colour, linestyle=look.dash, linewidth=1.5, zorder=1.5)
    _set_scale(axes, "x", [*runs["value"], *(level for _, level in near)])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0, labelcolor="black")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"{columns()['fid'].title} (lower is better)")


def _fids(table: Table, lines: Lines) -> pd.DataFrame:
    """Return line, teacher and value of the students' runs among the lines."""
    students = [line.number for line, _ in lines if line.trained]
    return table.runs[(table.runs["column"] == "fid") & table.runs["line"].isin(students)]


def _explanations(axes: Axes, table: Table, known: dict[str, Lines], marks: dict[str, str]) -> list[Any]:
    """Return the legend of `plot_spread`: what marks, bars and lines are."""
    handles: list[Any] = []

    def explain(words: str, **look: Any) -> None:
        handles.append(Line2D([], [], label=words, **{"color": GREY, **look}))

    for teacher, marker in marks.items():
        words = f"A run, from the teacher {teacher}" if len(marks) > 1 else "A run"
        explain(words, marker=marker, **RUN_MARK)
    explain("Mean over the runs", **MEAN_MARK)
    if over := designs(table.students()):
        explain(f"Training spread (standard deviation over {over})", **TRAINING_BAR)
    _explain_sampling(handles, axes, "x", table, "Sampling spread")
    for lines in known.values() if len(known) == 1 else ():  # levels are others in every panel
        for line, look, _, shown in levels(table, lines, "fid", _fids(table, lines)["value"]):
            words = f"{line.row.title}: {cell_text(table, line, 'fid').value}"
            words += f", mean of {designs([line])}" if len(line.keys) > 1 else ""
            words += "" if shown else ", off scale"
            explain(words, color=look.colour, linestyle=look.dash, linewidth=1.5)
    return handles


def _explain_sampling(handles: list[Any], axes: Axes, axis: str, table: Table, words: str) -> None:
    """Add what stands for the sampling spread in a legend, which takes its caps from a bar in the axes."""
    blocks = max(line.blocks for line in table.students())
    if blocks > 1:
        label = f"{words} (standard deviation over {blocks} blocks of latents)"
        nowhere: dict[str, Any] = {"x": [np.nan], "y": [np.nan], f"{axis}err": [np.nan]}
        handles.append(axes.errorbar(**nowhere, color=GREY, label=label, **SAMPLING_BAR))


def _set_scale(axes: Axes, axis: str, values: list[float]) -> None:
    """Set the limits of an axis from means and levels alone: a bar must not stretch a logarithmic axis."""
    low, high = min(values), max(values)
    if low <= 0 or high / low <= 10:
        axes.set(**{f"{axis}lim": (min(0, low), high * 1.08)})
        return
    axes.set(**{f"{axis}scale": "log", f"{axis}lim": (low / 1.3, high * 1.3)})
    ticks = axes.xaxis if axis == "x" else axes.yaxis
    ticks.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ticks.set_major_formatter(lambda value, _: f"{value:g}")  # 0.5, 1, 2, 5, 10
    ticks.set_minor_formatter(NullFormatter())


def _title(panels: Any, table: Table) -> None:
    for axes, setting in zip(panels, table.settings.values(), strict=True):
        if len(panels) > 1:
            axes.set_title(setting.title, loc="left")
