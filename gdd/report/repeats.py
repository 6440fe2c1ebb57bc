"""What a table says whose rows were trained several times: compared run by run, teacher and seed alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from gdd.report.comparison import Finding, FindingKind, listed, nearest_unfrozen, recipe_differences
from gdd.report.paired import Paired, compare_runs
from gdd.report.runs import design
from gdd.report.table import Line, cell_text

COLUMN = "fid"


def repeated(lines: Sequence[Line]) -> bool:
    """Say whether the students have several runs each, all from the same teachers and seeds."""
    designs = {frozenset(line.keys) for line in lines if line.trained}
    return len(designs) == 1 and len(next(iter(designs))) > 1


def compare_repeated(lines: Sequence[Line]) -> Iterator[Finding]:
    """Compare the kinds of loss, what freezing does, and what both losses together do, pair by pair."""
    students = [line for line in lines if line.trained and COLUMN in line.cells]
    instance, distributional, both = (
        [line for line in students if line.kind == kind] for kind in ("instance", "distributional", "both")
    )
    for imitating in instance:
        for fooling in distributional:
            yield from _expected("worse", imitating, fooling)
    yield from _frozen(distributional)
    for combined in both:
        for imitating in instance:
            yield from _expected("better", combined, imitating, "Both losses together: ")
        for fooling in distributional:
            yield from _expected("worse", combined, fooling, "Both losses together: ")


def _expected(
    order: Literal["worse", "better"], first: Line, second: Line, lead: str = ""
) -> Iterator[Finding]:
    """Yield whether `first` is worse or better than `second`, as expected, in every pair and by enough."""
    found = compare_runs(first, second, COLUMN)
    if found is not None:
        text = f"{lead}{_sentence(first, second, found)}."
        yield Finding(_kind(found, order), text[0].upper() + text[1:])


def _kind(found: Paired, expected: Literal["worse", "better"]) -> FindingKind:
    if found.verdict == "open":
        return "open"
    return "holds" if found.verdict == expected else "turns"


def _frozen(lines: Sequence[Line]) -> Iterator[Finding]:
    """Compare every frozen model with the unfrozen one of the same objective that is nearest in recipe."""
    for line in lines:
        other = nearest_unfrozen(line, lines)
        if other is None or (found := compare_runs(line, other, COLUMN)) is None:
            continue
        text = f"Frozen layers: {_sentence(line, other, found)}."
        also = recipe_differences(line, other, "freeze")
        if also:
            text += f" They also differ in {listed(also)}, so this is not the effect of freezing alone."
        yield Finding(_kind(found, "better"), text)


def _sentence(first: Line, second: Line, found: Paired) -> str:
    """Write how the first stands to the second: pairs, mean difference and spread, and what fails."""
    word, agreeing = ("lower", found.better) if found.difference < 0 else ("higher", found.worse)
    pairs = len(found.keys)
    every = "both" if pairs == 2 else f"all {pairs}"
    count = every if agreeing == pairs else f"{agreeing} of {pairs}"
    values = " against ".join(cell_text(line, COLUMN).value for line in (first, second))
    text = (
        f"the FID of {first.title} is {word} than that of {second.title}, {values}, in {count} pairs of runs "
        f"({design(found.keys)}); the mean difference of {_number(abs(found.difference))}"
    )
    if found.pooled_std is None:
        return f"{text} cannot be judged, as there is no spread over runs"
    limit = f"twice the pooled standard deviation over runs (2 × {_number(found.pooled_std)})"
    if found.clear and agreeing == pairs:
        return f"{text} exceeds {limit}"
    if found.clear:
        return f"{text} exceeds {limit}, but the pairs do not agree"
    return f"{text} is within {limit}{'' if agreeing == pairs else ', and the pairs do not agree'}"


def _number(value: float) -> str:
    """Write a difference of FIDs so that it does not vanish in rounding."""
    if 0 < value < 0.005:
        return "<0.01"
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
