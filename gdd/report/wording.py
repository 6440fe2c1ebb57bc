"""How a table reads: its headings, its cells, and the note that says what the spreads are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gdd.config.metrics import columns
from gdd.report.numbers import Key
from gdd.report.table import Line, Table


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


def cell_text(table: Table, line: Line, column: str) -> CellText:
    """Write a cell; a missing number gives empty text."""
    cell, style = table.cell(line, column), columns()[column]
    if cell is None:
        return CellText()
    if column == "trainable":
        return CellText(_trainable(cell.mean, line.parameters.get("total")))
    decimals = _decimals(cell.mean, column)
    if style.signed:
        return CellText(_signed(cell.mean, decimals), error=_spread(cell.standard_error, decimals))
    return CellText(
        number(cell.mean, column),
        _spread(cell.sampling_std, decimals) if style.spread else "",
        _spread(cell.training_std, decimals) if style.spread else "",
    )


def number(value: float, column: str) -> str:
    """Write a number as the column's cells are, without any spread."""
    return f"{value:,.{_decimals(value, column)}f}"


def headings(table: Table) -> list[str]:
    """Return the titles of the columns, a setting's first where there are several."""
    lead = ["Setting", "Model"] if len(table.settings) > 1 else ["Model"]
    return [*lead, *(columns()[column].heading for column in table.columns)]


def leads(table: Table, line: Line) -> list[str]:
    """Return what names a line: its title, after the setting's where there are several."""
    return [table.settings[line.row.setting], line.title] if len(table.settings) > 1 else [line.title]


def note(table: Table) -> str:
    """Say what the spreads in the cells are and over what they go, or that there are none."""
    blocks = [line.blocks for line in table.lines if line.kind != "floor"]
    of = f" of {table.samples:,} images" if table.samples else ""
    parts = [
        f"± is the sampling spread: the standard deviation over {_span(blocks)} blocks{of}, each generated "
        "from its own latents by the same weights, pooled over runs."
        if max(blocks) > 1
        else f"One block{of} per run, so the sampling spread is unknown."
    ]
    students, teachers = table.students(), [line for line in table.lines if line.kind == "teacher"]
    if over := designs(students):
        also = f", in the teachers' rows over {designs(teachers)}" if designs(teachers) else ""
        parts.append(
            f"[ ] is the training spread: the standard deviation over {over}{also}; the runs of a teacher "
            "share it, its solved pairs, the feature networks and the data."
        )
    elif students:
        parts.append("One training run per row, so the training spread is unknown.")
    if "fid_difference" in table.columns:
        cells = [cell for line in students if (cell := table.cell(line, "fid_difference"))]
        pairs = [cell.runs for cell in cells if not math.isnan(cell.standard_error)]
        meaning = (
            "SE is the standard error of the mean of the differences between runs of the same teacher and "
            f"seed ({_span(pairs)} pairs)"
            if pairs
            else "its uncertainty is unknown without two runs of the same teachers and seeds"
        )
        change = "FID change is a student's mean FID minus that of the student in the row above"
        parts.append(f"{change}; {meaning}.")
    return " ".join(parts)


def designs(lines: Iterable[Line], fewest: int = 2) -> str:
    """Return over which runs the lines go: of those with two runs or more, which have a training spread."""
    return " or ".join(dict.fromkeys(runs_in_words(of.keys) for of in lines if len(of.keys) >= fewest))


def runs_in_words(keys: Sequence[Key]) -> str:
    """Write over what a training spread goes: `6 runs: 3 seeds × 2 teachers`, or `2 teachers`."""
    teachers, seeds = (len(set(part) - {None}) for part in zip(*keys, strict=True))
    if not seeds:
        return counted(teachers, "teacher")
    words = f"{counted(len(keys), 'run')}: {counted(seeds, 'seed')}"
    if teachers == 1:
        return f"{words}, one teacher"
    return f"{words} {'×' if len(keys) == seeds * teachers else 'and'} {counted(teachers, 'teacher')}"


def counted(count: int, noun: str) -> str:
    """Write `1 run` or `2 runs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(parts: Iterable[str]) -> str:
    """Join words as in a sentence: `a, b and c`."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def _span(numbers: list[int]) -> str:
    return str(numbers[0]) if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"


def _decimals(value: float, column: str) -> int:
    decimals = columns()[column].decimals or 0
    return 1 if decimals and abs(value) >= 100 else decimals


def _signed(value: float, decimals: int) -> str:
    """Write a difference with its sign, a true minus; what rounds to zero has none."""
    text = f"{value:+,.{decimals}f}"
    return text.lstrip("+-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def _spread(value: float, decimals: int) -> str:
    if math.isnan(value):
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
