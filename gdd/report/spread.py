"""Every run of a table as a mark, with the mean and both spreads of every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdd.errors import UserError
from gdd.experiments import Experiments, pictured
from gdd.report.runs import runs_in_words
from gdd.report.style import (
    FLOOR,
    INK,
    MARKERS,
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
from gdd.report.table import Line, cell_text
from gdd.report.tables import build_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

COLUMN = "fid"
ROW = 0.6  # inches
AROUND = 2.1  # inches for the axis and the explanation
RUNS, MEAN, TRAINING, SAMPLING = -0.24, 0.17, 0.09, 0.26  # of a row: at what height each stands
TEACHERS = 0.17  # of a row: between the runs of the first and the last teacher, so that fewer hide others
RUN_MARK: dict[str, Any] = {
    "markersize": 6.5,
    "markeredgewidth": 0.7,
    "markeredgecolor": "white",
    "alpha": 0.85,
}
MEAN_MARK: dict[str, Any] = {"marker": "|", "markersize": 15, "markeredgewidth": 2.4}
TRAINING_BAR: dict[str, Any] = {"linewidth": 5.0, "alpha": 0.45, "solid_capstyle": "butt"}


@dataclass(frozen=True)
class Panel:
    """What one setting's axes show."""

    title: str
    students: list[tuple[Line, Look]]
    teachers: list[tuple[Line, Look]]
    floor: float | None

    def span(self) -> tuple[float, float]:
        """Return the smallest and the largest number of a student's run."""
        runs = [run for line, _ in self.students for run in line.runs]
        values = [run.values[COLUMN] for run in runs if COLUMN in run.values]
        return min(values), max(values)

    def shown(self, value: float) -> bool:
        """Say whether a level lies within a decade of the runs."""
        low, high = self.span()
        return low / 10 <= value <= high * 10


def plot_spread(experiments: Experiments, name: str, results: Path, out_stem: Path) -> tuple[Path, Path]:
    """Draw the FID of every run of a table as `<out_stem>.png` and `.pdf`; one panel per setting.

    Raises:
        UserError: an input file is missing, or no run of a setting has an FID.
    """
    panels = gather(experiments, name, results)
    import matplotlib
    from matplotlib.figure import Figure

    rows = [len(panel.students) for panel in panels]
    shapes = _shapes(panels)
    with matplotlib.rc_context({**RC, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(WIDTH, ROW * sum(rows) + AROUND * len(panels)))
        subplots = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[n + 1 for n in rows])
        for axes, panel in zip(subplots[:, 0], panels, strict=True):
            _draw(axes, panel, shapes)
            if len(panels) > 1:
                axes.set_title(panel.title, loc="left")
        _explain(figure, panels, shapes)
        return save_figure(figure, out_stem)


def gather(experiments: Experiments, name: str, results: Path) -> list[Panel]:
    """Read what the figure shows, setting by setting.

    Raises:
        UserError: as `plot_spread`.
    """
    table = build_table(experiments, name, results)
    rows = pictured(experiments.rows(name))
    panels = []
    for setting, title in table.settings.items():
        inside = [row for row in rows if row.setting == setting]
        lines = [line for line in table.lines if line.setting == setting]
        pairs = [
            (line, look)
            for line, look in zip(lines, looks(inside, experiments.config), strict=True)
            if COLUMN in line.cells
        ]
        students = [(line, look) for line, look in pairs if line.trained]
        if not students:
            raise UserError(
                f"No run of '{name}' in the setting '{setting}' has an FID; "
                f"delete the metrics.json of its runs and run `snakemake --cores 2 {name}`."
            )
        teachers = [(line, look) for line, look in pairs if not line.trained]
        floor = next((line.value(COLUMN) for line in table.floors if line.setting == setting), None)
        panels.append(Panel(title, students, teachers, floor))
    return panels


def _shapes(panels: Sequence[Panel]) -> dict[str, str]:
    """Give every teacher the mark of its runs, the same in all panels."""
    names = dict.fromkeys(run.teacher for panel in panels for line, _ in panel.students for run in line.runs)
    return {name: MARKERS[index % len(MARKERS)] for index, name in enumerate(names)}


def _draw(axes: Axes, panel: Panel, shapes: dict[str, str]) -> None:
    visible = list(panel.span())
    for value, colour, dash in _levels(panel):
        if panel.shown(value):
            axes.axvline(value, color=colour, linestyle=dash, linewidth=1.5, zorder=1.5)
            visible.append(value)
    middle = (len(shapes) - 1) / 2
    heights = {name: TEACHERS * (n - middle) / max(2 * middle, 1) for n, name in enumerate(shapes)}
    for index, (line, look) in enumerate(panel.students):
        for run in line.runs:
            if COLUMN in run.values:
                axes.plot(
                    [run.values[COLUMN]],
                    [index + RUNS + heights[run.teacher]],
                    marker=shapes[run.teacher],
                    color=look.colour,
                    linestyle="",
                    **RUN_MARK,
                )
        _mean(axes, line, look, index)
    _scale(axes, min(visible), max(visible))
    axes.set_ylim(len(panel.students) - 0.4, -0.6)
    names = [f"{line.title}\n{cell_text(line, COLUMN).value}" for line, _ in panel.students]
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(column_title(COLUMN).replace("↓", "(lower is better)"))


def _mean(axes: Axes, line: Line, look: Look, row: int) -> None:
    """Draw the mean, the training spread as a thick bar and the sampling spread as a thin one with caps."""
    cell = line.cells[COLUMN]
    if cell.training_std is not None:
        ends = [cell.mean - cell.training_std, cell.mean + cell.training_std]
        axes.plot(ends, [row + TRAINING] * 2, color=look.colour, marker="", **TRAINING_BAR)
    if cell.sampling_std is not None:
        axes.errorbar(cell.mean, row + SAMPLING, xerr=cell.sampling_std, color=look.colour, **SAMPLING_BAR)
    axes.plot([cell.mean], [row + MEAN], color=look.colour, **MEAN_MARK)


def _levels(panel: Panel) -> list[tuple[float, str, object]]:
    levels: list[tuple[float, str, object]] = [
        (line.cells[COLUMN].mean, look.colour, look.dash) for line, look in panel.teachers
    ]
    if panel.floor is not None:
        levels.append((panel.floor, FLOOR, ":"))
    return levels


def _scale(axes: Axes, low: float, high: float) -> None:
    """Set the limits from runs and levels alone: a bar must not stretch a logarithmic axis."""
    if low > 0 and high / low > 10:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.3, high * 1.3)
        log_ticks(axes.xaxis)
    else:
        axes.set_xlim(0, high * 1.08)


def _explain(figure: Figure, panels: Sequence[Panel], shapes: dict[str, str]) -> None:
    """Say below the axes what marks, bars and lines are."""
    from matplotlib.lines import Line2D

    handles: list[Line2D | Patch] = []
    students = [line for panel in panels for line, _ in panel.students]

    def explain(words: str, **look: Any) -> None:
        handles.append(Line2D([], [], label=words, **{"color": FLOOR, **look}))

    for teacher, marker in shapes.items():
        words = f"A run, from the teacher {teacher}" if len(shapes) > 1 else "A run"
        explain(words, marker=marker, linestyle="", **RUN_MARK)
    explain("Mean over the runs", linestyle="", **MEAN_MARK)
    designs = dict.fromkeys(runs_in_words(line.keys) for line in students if len(line.runs) > 1)
    if designs:
        explain(f"Training spread (standard deviation over {' or '.join(designs)})", **TRAINING_BAR)
    blocks = max(line.blocks for line in students)
    if blocks > 1:
        words = f"Sampling spread (standard deviation over {blocks} blocks of latents)"
        handles.append(sampling_handle(words))
    if len(panels) == 1:
        for line, look in panels[0].teachers:
            value = cell_text(line, COLUMN).value
            scale = "" if panels[0].shown(line.cells[COLUMN].mean) else ", off scale"
            of = f", mean of {runs_in_words(line.keys)}" if len(line.runs) > 1 else ""
            words = f"{line.title}: {value}{of}{scale}"
            explain(words, color=look.colour, linestyle=look.dash, linewidth=1.5)
        if panels[0].floor is not None:
            explain(f"Real against real: {panels[0].floor:.2f}", linestyle=":", linewidth=1.5)
    explain_below(figure, handles)
