"""When two numbers of a table differ by more than chance, and how a comparison is worded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gdd.report.style import COLUMNS
from gdd.report.table import Cell, Line, cell_text

FindingKind = Literal["holds", "turns", "open"]


@dataclass(frozen=True)
class Finding:
    """A sentence on the numbers: the expected order holds, turns round, or the question stays open."""

    kind: FindingKind
    text: str


@dataclass(frozen=True)
class Margin:
    """What a difference has to exceed to count, and the spread that it is twice of."""

    value: float
    spread: Literal["sampling spread", "training spread"]


@dataclass(frozen=True)
class Relation:
    """How one group of lines stands to another in a column, judged by the pair that comes closest.

    `mixed` means that some are better and some worse. `clear` says that every pair differs by more than
    its margin.
    """

    order: Literal["ahead", "behind", "mixed"]
    clear: bool


def margin(first: Cell, second: Cell) -> Margin | None:
    """Return twice the standard deviation of the difference of two cells; None if no spread is known.

    The sampling and the training spread are each taken by themselves, and the larger one counts.
    """
    margins = []
    if first.sampling_std is not None or second.sampling_std is not None:
        value = 2 * math.hypot(first.sampling_std or 0, second.sampling_std or 0)
        margins.append(Margin(value, "sampling spread"))
    if first.training_std is not None or second.training_std is not None:
        value = 2 * math.hypot(first.training_std or 0, second.training_std or 0)
        margins.append(Margin(value, "training spread"))
    return max(margins, key=lambda found: found.value, default=None)


def clearly_apart(first: Cell, second: Cell) -> bool:
    """Say whether two cells differ by more than their margin; never so without a known spread."""
    limit = margin(first, second)
    return limit is not None and abs(first.mean - second.mean) > limit.value


def better(first: Cell, second: Cell, column: str) -> bool:
    """Say whether the mean of `first` is the better one in a column."""
    low = COLUMNS[column].better == "low"
    return first.mean < second.mean if low else first.mean > second.mean


def relation(ours: Sequence[Line], theirs: Sequence[Line], column: str) -> Relation:
    """Compare every line of `ours` with every one of `theirs`; all must have a cell in the column."""
    pairs = [(a.cells[column], b.cells[column]) for a in ours for b in theirs]
    wins = [better(a, b, column) for a, b in pairs]
    clear = all(clearly_apart(a, b) for a, b in pairs)
    if all(wins):
        return Relation("ahead", clear)
    return Relation("behind" if not any(wins) else "mixed", clear)


def ranked(lines: Iterable[Line], column: str) -> list[Line]:
    """Return the lines that have the column, the best first."""
    low = COLUMNS[column].better == "low"
    present = [line for line in lines if column in line.cells]
    return sorted(present, key=lambda line: line.cells[column].mean, reverse=not low)


def amount(line: Line, column: str) -> str:
    """Write a cell with its sampling spread, or its value alone."""
    text = cell_text(line, column)
    return f"{text.value} ± {text.sampling}" if text.sampling else text.value


def named(line: Line, column: str) -> str:
    """Write a line's title with its value in brackets."""
    return f"{line.title} ({amount(line, column)})"


def listed(parts: Sequence[str]) -> str:
    """Join words as in a sentence: `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def times(ratio: float) -> str:
    """Write a ratio as `2.4 times` or `58 times`."""
    return f"{ratio:.1f} times" if ratio < 10 else f"{ratio:,.0f} times"


def within(first: Line, second: Line, column: str) -> str:
    """Explain why two lines cannot be told apart."""
    limit = margin(first.cells[column], second.cells[column])
    if limit is None:
        return "with one block of latents and one training run no spread is known to judge this by"
    difference = abs(first.cells[column].mean - second.cells[column].mean)
    decimals = COLUMNS[column].decimals or 0
    return (
        f"the difference of {difference:.{decimals}f} is within twice its {limit.spread} "
        f"({limit.value:.{decimals}f})"
    )


def recipe_differences(first: Line, second: Line, ignoring: str) -> list[str]:
    """Return in words the keys in which two recipes differ, except for `ignoring`."""
    a, b = dict(leaves(first.recipe)), dict(leaves(second.recipe))
    keys = [key for key in {**a, **b} if a.get(key) != b.get(key) and key != ignoring]
    return [f"{key} ({plain(a.get(key))} against {plain(b.get(key))})" for key in keys]


def nearest_unfrozen(line: Line, lines: Iterable[Line]) -> Line | None:
    """Return the unfrozen line of the same objective that is nearest in recipe to a frozen one."""
    free = [
        other
        for other in lines
        if other.recipe["freeze"] == "none" and other.recipe["objective"] == line.recipe["objective"]
    ]
    if line.recipe["freeze"] == "none" or not free:
        return None
    return min(free, key=lambda candidate: len(recipe_differences(line, candidate, "freeze")))


def leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings under their dotted keys."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def plain(value: Any) -> str:
    """Write a recipe's value for a reader."""
    if isinstance(value, list):
        return " + ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
