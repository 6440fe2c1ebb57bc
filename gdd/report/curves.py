"""A metric against the images seen, with the teacher and the floor as levels."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdd.errors import UserError
from gdd.experiments import Experiments, TableRow, pictured
from gdd.report.inputs import read_input
from gdd.report.labels import Label, write_labels
from gdd.report.runs import numbers, runs_in_words
from gdd.report.style import (
    FLOOR,
    RC,
    SAMPLING_BAR,
    WIDTH,
    Look,
    column_title,
    explain_below,
    log_ticks,
    looks,
    sampling_handle,
    save_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

HEIGHT = 4.6  # inches


@dataclass(frozen=True)
class Series:
    """A row's curve: image counts, means over runs, and both spreads.

    `stds` is the training spread at every count (None with one run), `sampling_std` that over blocks of
    latents at the end (None with one block).
    """

    images: list[int]
    means: list[float]
    stds: list[float] | None
    sampling_std: float | None = None
    over: str = ""  # the runs in words
    blocks: int = 1


@dataclass(frozen=True)
class Panel:
    """What one setting's axes show."""

    title: str
    curves: list[tuple[str, Look, Series]]
    teachers: list[tuple[str, Look, float]]
    floor: float | None

    def span(self) -> tuple[float, float]:
        """Return the smallest and the largest value of the students' curves."""
        values = [value for _, _, series in self.curves for value in series.means]
        return min(values), max(values)

    def shown(self, value: float) -> bool:
        """Say whether a level lies within a decade of the curves."""
        low, high = self.span()
        return low / 10 <= value <= high * 10


def plot_curve(experiments: Experiments, name: str, results: Path, out_stem: Path) -> tuple[Path, Path]:
    """Draw the curve of a table as `<out_stem>.png` and `.pdf`; one panel per setting.

    Raises:
        UserError: the table has no `curve`, an input file is missing, or no run has a curve.
    """
    panels = gather(experiments, name, results)
    curve = experiments.config.ablations[name].curve
    assert curve is not None
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(WIDTH, HEIGHT * len(panels)))
        for axes, panel in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
            _draw(axes, panel, column_title(curve.y))
            if len(panels) > 1:
                axes.set_title(panel.title, loc="left")
        _explain_spreads(figure, [series for panel in panels for _, _, series in panel.curves])
        return save_figure(figure, out_stem)


def gather(experiments: Experiments, name: str, results: Path) -> list[Panel]:
    """Read what the figure shows, setting by setting.

    Raises:
        UserError: as `plot_curve`.
    """
    rows = pictured(experiments.rows(name))
    ablation = experiments.config.ablations[name]
    if ablation.curve is None:
        raise UserError(
            f"{experiments.config.where('ablations', name)} asks for no curve; "
            "add `curve: {x: images, y: fid}` to it."
        )
    metric = ablation.curve.y
    panels = []
    for setting in ablation.setting_names():
        inside = [row for row in rows if row.setting == setting]
        panel = Panel(experiments.config.settings[setting].title, [], [], None)
        floor = None
        for row, look in zip(inside, looks(inside, experiments.config), strict=True):
            found = [read_input(results, path, name) for path in row.metrics()]
            floor = floor or (found[0].get("floor") or {}).get(metric)
            _add(panel, row, look, found, metric)
        if not panel.curves:
            raise UserError(
                f"No run of '{name}' in the setting '{setting}' has a curve of '{metric}'; "
                f"run `snakemake --cores 2 {name}`, or remove 'curve' from its file."
            )
        panels.append(Panel(panel.title, panel.curves, panel.teachers, floor))
    return panels


def _add(panel: Panel, row: TableRow, look: Look, metrics: list[dict[str, Any]], metric: str) -> None:
    if row.method is None:  # a teacher, or others' work
        values = numbers(found["final"]["mean"].get(metric) for found in metrics)
        if values:
            panel.teachers.append((row.title, look, statistics.mean(values)))
        return
    series = _series([found.get("curve") or [] for found in metrics], metric)
    if not series.images:
        return
    keys = [(run.recipe.teacher, run.seed) for run in row.runs]
    stds = numbers((found["final"].get("sampling_std") or {}).get(metric) for found in metrics)
    series = replace(
        series,
        sampling_std=math.sqrt(statistics.mean(std**2 for std in stds)) if stds else None,
        over=runs_in_words(keys),
        blocks=max(len(found["final"].get("blocks") or ()) for found in metrics),
    )
    panel.curves.append((row.title, look, series))


def _series(curves: Sequence[list[dict[str, Any]]], metric: str) -> Series:
    """Average over runs where every run has a value, so that no step comes from a run dropping out."""
    points = [
        {point["images"]: point[metric] for point in curve if point.get(metric) is not None}
        for curve in curves
    ]
    common = sorted(set.intersection(*map(set, points)))
    values = [[run[images] for run in points] for images in common]
    stds = [statistics.stdev(each) for each in values] if len(points) > 1 else None
    return Series(common, [statistics.mean(each) for each in values], stds)


def _draw(axes: Axes, panel: Panel, title: str) -> None:
    labels = []
    for name, look, series in panel.curves:
        axes.plot(series.images, series.means, color=look.colour, marker=look.marker, linestyle=look.dash)
        if series.stds is not None:
            bounds = [(m - s, m + s) for m, s in zip(series.means, series.stds, strict=True)]
            low, high = zip(*bounds, strict=True)
            axes.fill_between(series.images, low, high, color=look.colour, alpha=0.18, linewidth=0)
        labels.append(Label(name, look.colour, look.marker, look.dash, series.means[-1]))
    levels = [(name, look.colour, look.dash, value) for name, look, value in panel.teachers]
    if panel.floor is not None:
        levels.append(("Real against real", FLOOR, ":", panel.floor))
    visible = list(panel.span())
    for name, colour, dash, value in levels:
        if panel.shown(value):
            axes.axhline(value, color=colour, linestyle=dash, linewidth=1.5, zorder=1.5)
            visible.append(value)
            labels.append(Label(name, colour, "", dash, value))
        else:
            above = value > visible[1]
            labels.append(Label(f"{name}:\n{_plain(value)}, off scale", colour, "", None, value, above))
    _scale(axes, min(visible), max(visible))
    _sampling_bars(axes, panel)
    axes.set_xlabel("Images seen in training")
    axes.set_ylabel(title)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.locator_params(axis="x", nbins=6)
    write_labels(axes, labels)


def _sampling_bars(axes: Axes, panel: Panel) -> None:
    """Draw the sampling spread of the ends beside each other just right of them, where nothing covers it."""
    bars = [(look, series) for _, look, series in panel.curves if series.sampling_std is not None]
    span = max((series.images[-1] for _, series in bars), default=0)
    for index, (look, series) in enumerate(bars):
        at = series.images[-1] + span * (0.015 + 0.06 * (index + 0.5) / len(bars))
        axes.errorbar(at, series.means[-1], series.sampling_std, color=look.colour, marker="", **SAMPLING_BAR)
        axes.set_xlim(right=span * 1.085)


def _explain_spreads(figure: Figure, curves: Sequence[Series]) -> None:
    """Say below the axes what band and bar are, as far as there are any."""
    from matplotlib.patches import Patch

    handles: list[Line2D | Patch] = []
    designs = dict.fromkeys(series.over for series in curves if series.stds is not None)
    if designs:
        words = f"Band: training spread (standard deviation over {' or '.join(designs)})"
        handles.append(Patch(color=FLOOR, alpha=0.3, linewidth=0, label=words))
    blocks = [series.blocks for series in curves if series.sampling_std is not None]
    if blocks:
        words = f"Bar at the end: sampling spread (standard deviation over {max(blocks)} blocks of latents)"
        handles.append(sampling_handle(words))
    explain_below(figure, handles)


def _scale(axes: Axes, low: float, high: float) -> None:
    """Set the limits from means and levels alone: a band must not stretch a logarithmic axis."""
    if low > 0 and high / low > 10:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.3, high * 1.3)
        log_ticks(axes.yaxis)
    else:
        axes.set_ylim(0, high * 1.08)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
