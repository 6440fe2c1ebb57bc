"""A table as data: lines of cells, each with its spreads, and how a cell is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gdd.report.runs import At, Key, RunNumbers
from gdd.report.style import COLUMNS, column_title

Kind = Literal["teacher", "distributional", "instance", "both", "external", "floor"]


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    `training_std` is the sample standard deviation of the runs' means over all runs of the row, seeds and
    teachers (None with one run). `sampling_std` is the standard deviation over blocks of latents within a
    run, pooled over runs as the root of the mean variance (None with one block). They answer different
    questions and are never combined. `standard_error` is that of a difference between two rows.
    """

    mean: float
    training_std: float | None = None
    sampling_std: float | None = None
    standard_error: float | None = None
    runs: int = 1


@dataclass(frozen=True)
class Line:
    """A row: a student over its runs, a teacher at some number of steps, others' work, or real images."""

    title: str
    setting: str
    kind: Kind
    cells: Mapping[str, Cell]  # every number known, whether or not it is among the table's columns
    run: str | None = None  # the id of the first run
    method: str | None = None
    runs: tuple[RunNumbers, ...] = ()  # of a teacher's row: one per teacher
    blocks: int = 1
    teacher_steps: int | None = None
    parameters: Mapping[str, int] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)  # of the first run
    at: At = "end"  # which snapshot of the runs

    @property
    def trained(self) -> bool:
        """Whether it is a student, trained here."""
        return self.kind in ("distributional", "instance", "both")

    @property
    def keys(self) -> tuple[Key, ...]:
        """Teacher and seed of every run."""
        return tuple(run.key for run in self.runs)

    def value(self, column: str) -> float | None:
        """Return the mean in a column, None where there is none."""
        cell = self.cells.get(column)
        return None if cell is None else cell.mean


@dataclass(frozen=True)
class Table:
    """All that is known about a table; the files and the site are written from it."""

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    floors: tuple[Line, ...]
    settings: Mapping[str, str]  # name -> title
    definitions: Mapping[str, str]
    samples: int | None = None  # images per block of latents

    def all_lines(self) -> list[Line]:
        """Return every setting's lines with its floor at the end."""
        ordered = []
        for setting in self.settings:
            ordered += [line for line in (*self.lines, *self.floors) if line.setting == setting]
        return ordered


@dataclass(frozen=True)
class CellText:
    """A cell as text: the value and what is known of its uncertainty, each empty where there is none."""

    value: str = ""
    sampling: str = ""
    training: str = ""
    error: str = ""

    def __str__(self) -> str:
        sampling = f" ± {self.sampling}" if self.sampling else ""
        training = f" [{self.training}]" if self.training else ""
        error = f" (SE {self.error})" if self.error else ""
        return self.value + sampling + training + error


def cell_text(line: Line, column: str) -> CellText:
    """Write the cell of `line` in `column`; a missing number gives empty text."""
    cell = line.cells.get(column)
    if cell is None:
        return CellText()
    if column == "trainable":
        return CellText(_trainable(cell.mean, line.parameters.get("total")))
    decimals = COLUMNS[column].decimals or 0
    if decimals and abs(cell.mean) >= 100:
        decimals = 1
    if COLUMNS[column].signed:
        return CellText(signed(cell.mean, decimals), error=_spread(cell.standard_error, decimals))
    if not COLUMNS[column].spread:
        return CellText(f"{cell.mean:,.{decimals}f}")
    return CellText(
        f"{cell.mean:,.{decimals}f}",
        _spread(cell.sampling_std, decimals),
        _spread(cell.training_std, decimals),
    )


def signed(value: float, decimals: int) -> str:
    """Write a difference with its sign, a true minus; what rounds to zero has none."""
    text = f"{value:+,.{decimals}f}"
    return text.lstrip("+-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def headings(table: Table) -> list[str]:
    """Return the titles of the columns, a setting's first where there are several."""
    lead = ["Setting", "Model"] if len(table.settings) > 1 else ["Model"]
    return [*lead, *map(column_title, table.columns)]


def leads(table: Table, line: Line) -> list[str]:
    """Return what names a line: its title, after the setting's where there are several."""
    return [table.settings[line.setting], line.title] if len(table.settings) > 1 else [line.title]


def _spread(value: float | None, decimals: int) -> str:
    if value is None:
        return ""
    # A spread that rounds to zero must not read as if there were none.
    smallest = 10.0**-decimals
    if 0 < value < smallest / 2:
        return f"<{smallest:.{decimals}f}"
    return f"{value:,.{decimals}f}"


def _trainable(count: float, total: int | None) -> str:
    text = f"{count:.0f}"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            text = f"{count / size:.{0 if count / size >= 100 else 1}f} {unit}"
            break
    return f"{text} ({100 * count / total:.1f} %)" if total else text
