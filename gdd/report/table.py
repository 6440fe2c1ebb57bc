"""A table as data: lines of cells, each with both of its spreads, and how a cell is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gdd.report.style import COLUMNS, column_title

Kind = Literal["teacher", "distributional", "instance", "both", "floor"]


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    `training_std` is the sample standard deviation of the runs' means over seeds (None with one seed).
    `sampling_std` is the standard deviation over blocks of latents within a run, averaged over runs (None
    with one block). They answer different questions and are never combined.
    """

    mean: float
    training_std: float | None = None
    sampling_std: float | None = None
    seeds: int = 1
    blocks: int = 1


@dataclass(frozen=True)
class Line:
    """A row: a student over its seeds, the teacher at some number of steps, or real against real images."""

    title: str
    setting: str
    kind: Kind
    cells: Mapping[str, Cell]  # every number known, whether or not it is among the table's columns
    run: str | None = None
    method: str | None = None
    seeds: tuple[int, ...] = ()
    blocks: int = 1
    teacher_steps: int | None = None
    parameters: Mapping[str, int] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)

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

    def note(self) -> str:
        """Say what the two spreads in the cells are, or that there is none."""
        blocks = sorted({line.blocks for line in self.lines})
        seeds = sorted({len(line.seeds) for line in self.lines if line.kind != "teacher"})
        of = f" of {self.samples:,} images" if self.samples else ""
        parts = []
        if blocks and blocks[-1] > 1:
            parts.append(
                f"± is the sampling spread: the standard deviation over {_span(blocks)} blocks{of}, each "
                "generated from its own latents by the same weights, averaged over runs."
            )
        else:
            parts.append(f"One block{of} per run, so the sampling spread is unknown.")
        if seeds and seeds[-1] > 1:
            parts.append(
                f"[ ] is the training spread: the standard deviation over {_span(seeds)} training seeds."
            )
        elif seeds:
            parts.append("One training seed per row, so the training spread is unknown.")
        return " ".join(parts)


@dataclass(frozen=True)
class CellText:
    """A cell as text: the value and the two spreads, each empty where there is none."""

    value: str = ""
    sampling: str = ""
    training: str = ""

    def __str__(self) -> str:
        sampling = f" ± {self.sampling}" if self.sampling else ""
        training = f" [{self.training}]" if self.training else ""
        return self.value + sampling + training


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
    if not COLUMNS[column].spread:
        return CellText(f"{cell.mean:,.{decimals}f}")
    return CellText(
        f"{cell.mean:,.{decimals}f}",
        _spread(cell.sampling_std, decimals),
        _spread(cell.training_std, decimals),
    )


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


def _span(numbers: list[int]) -> str:
    return str(numbers[0]) if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"
