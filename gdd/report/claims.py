"""Whether a table shows what it claims: every pair of rows compared run by run, with verdict and rule."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from gdd.config.metrics import columns
from gdd.config.records import Claim
from gdd.report.numbers import paired
from gdd.report.table import Line, Table
from gdd.report.wording import counted, listed, number

# The worst of its pairs decides on a claim, in this order.
ORDER = (
    "does not hold",
    "not in this one run",
    "no number",
    "within the spread",
    "in this one run",
    "holds",
)
RULES = {
    "training": (
        "Holds: the difference of the means exceeds twice the pooled training spread, and every pair of runs "
        "of equal teacher and seed agrees. Does not hold: the same the other way round. Within the spread: "
        "neither."
    ),
    "sampling": (
        "One run a row, so there is no training spread: the verdict is on these runs alone and proves "
        "nothing about the methods. Within the spread: the difference is at most twice the pooled sampling "
        "spread."
    ),
    "none": (
        "One run a row and one block of latents, so there is no spread of any kind: the verdict says which "
        "number is better and proves nothing."
    ),
}


@dataclass(frozen=True)
class Comparison:
    """Two rows in one column, over their runs of equal teacher and seed.

    `spread` is the root of the mean of both rows' variances, over runs (`spread_of` is `training`) or, with
    one run on both sides, over blocks of latents (`sampling`). `agree` counts the pairs in which the first
    row is better, `contradict` those in which the second is.
    """

    better: str
    than: str
    better_mean: float | None
    than_mean: float | None
    pairs: int
    agree: int
    contradict: int
    spread: float | None
    spread_of: str  # training, sampling or none
    clear: bool  # the difference exceeds twice the spread
    verdict: str


@dataclass(frozen=True)
class Verdict:
    """A claim in one setting: what came of it, pair by pair."""

    setting: str
    where: str  # the setting's title, where the table has several
    claim: Claim
    better: tuple[str, ...]
    than: tuple[str, ...]
    verdict: str
    rule: str
    pairs: tuple[Comparison, ...]

    @property
    def text(self) -> str:
        """The claim in words."""
        column = columns()[self.claim.column]
        return (
            f"{f'{self.where}: ' if self.where else ''}{listed(self.better)} "
            f"{'has' if len(self.better) == 1 else 'have'} a {column.better} {column.title} "
            f"than {listed(self.than)}"
        )

    def numbers(self, pair: Comparison) -> str:
        """Return what a pair's verdict rests on, in words."""
        column = self.claim.column
        if pair.better_mean is None or pair.than_mean is None:
            return f"{pair.better}, {pair.than}"
        text = (
            f"{pair.better}: {number(pair.better_mean, column)}; "
            f"{pair.than}: {number(pair.than_mean, column)}"
        )
        if pair.spread is not None:
            text += f"; pooled {pair.spread_of} spread {number(pair.spread, column)}"
        if pair.spread_of == "training":
            text += f"; {pair.agree} of {counted(pair.pairs, 'pair')} agree"
        return text

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain JSON values."""
        return {
            "setting": self.setting,
            "better": self.better,
            "than": self.than,
            "in": self.claim.column,
            "verdict": self.verdict,
            "rule": self.rule,
            "pairs": [asdict(pair) for pair in self.pairs],
        }


def verdicts(table: Table) -> list[Verdict]:
    """Return what came of every claim of a table, setting by setting."""
    return [
        verdict
        for setting in table.settings
        for claim in table.claims
        if (verdict := _verdict(table, claim, setting)) is not None
    ]


def _verdict(table: Table, claim: Claim, setting: str) -> Verdict | None:
    lines = {line.title: line for line in table.lines if line.row.setting == setting}
    # What others published has a row only in settings for which there is a file of it.
    better, than = (
        tuple(title for title in titles if title in lines) for titles in (claim.winners(), claim.losers())
    )
    if not better or not than:
        return None
    pairs = tuple(compare(table, lines[a], lines[b], claim.column) for a in better for b in than)
    return Verdict(
        setting=setting,
        where=table.settings[setting] if len(table.settings) > 1 else "",
        claim=claim,
        better=better,
        than=than,
        verdict=min((pair.verdict for pair in pairs), key=ORDER.index),
        rule=" ".join(RULES[key] for key in RULES if any(pair.spread_of == key for pair in pairs)),
        pairs=pairs,
    )


def compare(table: Table, first: Line, second: Line, column: str) -> Comparison:
    """Compare two rows of a table; the verdict is on the first being better."""
    pairs = paired(table.runs, first.number, second.number, column)
    sign = 1 if columns()[column].better == "lower" else -1
    gain = sign * (pairs["second"] - pairs["first"])
    spread, spread_of = _spread(table, pairs, (first, second), column)
    agree, contradict = int((gain > 0).sum()), int((gain < 0).sum())
    clear = spread is not None and bool(abs(gain.mean()) > 2 * spread)
    cells = [table.cell(line, column) for line in (first, second)]
    complete = all(
        cell and cell.runs == len(line.evaluated) for cell, line in zip(cells, (first, second), strict=True)
    )
    if pairs.empty or not complete:
        verdict = "no number"  # a run diverged, or nothing was evaluated in this column
    elif spread_of == "training" and clear and agree == len(pairs):
        verdict = "holds"
    elif spread_of == "training" and clear and contradict == len(pairs):
        verdict = "does not hold"
    elif spread_of == "training" or (spread_of == "sampling" and not clear):
        verdict = "within the spread"
    else:
        verdict = "in this one run" if agree else "not in this one run"
    return Comparison(
        better=first.title,
        than=second.title,
        better_mean=None if pairs.empty else float(pairs["first"].mean()),
        than_mean=None if pairs.empty else float(pairs["second"].mean()),
        pairs=len(pairs),
        agree=agree,
        contradict=contradict,
        spread=spread,
        spread_of=spread_of,
        clear=clear,
        verdict=verdict,
    )


def _spread(
    table: Table, pairs: pd.DataFrame, lines: tuple[Line, Line], column: str
) -> tuple[float | None, str]:
    """Return the pooled spread over runs, or over blocks of latents where each side has one run."""
    sides = [pairs.drop_duplicates(f"entry_{side}")[side] for side in ("first", "second")]
    variances = [side.var() for side in sides if len(side) > 1]
    if variances:
        return float(np.sqrt(np.mean(variances))), "training"
    cells = (table.cell(line, column) for line in lines)
    stds = [cell.sampling_std for cell in cells if cell and not np.isnan(cell.sampling_std)]
    if stds:
        return float(np.sqrt(np.mean(np.square(stds)))), "sampling"
    return None, "none"


def claims_in_markdown(found: Iterable[Verdict]) -> str:
    """Return a list of claims with their verdicts and numbers, and the rules they follow."""
    lines: list[str] = []
    rules: dict[str, None] = {}
    for verdict in found:
        lines.append(f"- **{verdict.verdict.capitalize()}:** {verdict.text}.")
        lines += [f"  - {verdict.numbers(pair)}: {pair.verdict}" for pair in verdict.pairs]
        rules[verdict.rule] = None
    return "\n".join(["## Claims", "", *lines, "", *rules]) if lines else ""
