"""Whether a table shows what it claims: every pair of rows compared run by run, with verdict and rule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from gdd.config.metrics import columns
from gdd.config.tables import Claim
from gdd.report.table import Line, Table, paired

# The worst of its pairs decides on a claim, in this order.
ORDER = (
    "does not hold",
    "not in this one run",
    "undecided",
    "within the spread",
    "in this one run",
    "holds",
)
RULES = {
    "training": "Holds: the difference of the means exceeds twice the pooled training spread, and every pair "
    "of runs of equal teacher and seed agrees. Does not hold: the same the other way round. Within the "
    "spread: neither. A spread over two runs is itself a rough guess.",
    "sampling": "One run a row, so there is no training spread: the verdict is on these runs alone and "
    "proves nothing about the methods. Within the spread: the difference is at most twice the pooled "
    "sampling spread.",
    "none": "One run a row and one block of latents, so there is no spread of any kind: the verdict says "
    "which number is better and proves nothing.",
}


@dataclass(frozen=True)
class Comparison:
    """Two rows in one column, over their runs of equal teacher and seed.

    `spread` is the root of the mean of both rows' variances, over runs (`spread_of` is `training`) or, with
    one run on both sides, over blocks of latents (`sampling`). The means are NaN where there is no pair.
    """

    better: str
    than: str
    better_mean: float
    than_mean: float
    pairs: int
    agree: int  # pairs in which the first row is better
    spread: float
    spread_of: str  # training, sampling or none
    clear: bool  # the difference of the means exceeds twice the spread
    verdict: str


@dataclass(frozen=True)
class Verdict:
    """A claim in one setting: what came of it, pair of rows by pair of rows."""

    claim: Claim
    setting: str
    where: str  # the setting's title, where the table has several
    pairs: list[Comparison]

    @property
    def verdict(self) -> str:
        return min((pair.verdict for pair in self.pairs), key=ORDER.index)

    @property
    def rule(self) -> str:
        """What the verdict follows from."""
        kinds = {pair.spread_of for pair in self.pairs}
        return " ".join(rule for kind, rule in RULES.items() if kind in kinds)

    def sides(self) -> tuple[list[str], list[str]]:
        """Return the rows that should be better, and those that should be worse."""
        pairs = [(pair.better, pair.than) for pair in self.pairs]
        better, than = (list(dict.fromkeys(side)) for side in zip(*pairs, strict=True))
        return better, than

    @property
    def text(self) -> str:
        """The claim in words."""
        column, (better, than) = columns()[self.claim.column], self.sides()
        verb = "has" if len(better) == 1 else "have"
        return f"{self.where}{_listed(better)} {verb} a {column.better} {column.title} than {_listed(than)}"

    def evidence(self, pair: Comparison) -> str:
        """Return what the verdict on a pair of rows rests on, in words."""
        if pair.verdict == "undecided":
            return (
                f"{pair.better}, {pair.than}: a run has no number, or no two have teacher and seed in common"
            )
        write = columns()[self.claim.column].write
        text = f"{pair.better}: {write(pair.better_mean)}; {pair.than}: {write(pair.than_mean)}"
        if pair.spread_of != "none":
            text += f"; pooled {pair.spread_of} spread {write(pair.spread)}"
        if pair.spread_of == "training":
            text += f"; {pair.agree} of {pair.pairs} pairs agree"
        return text

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain JSON values."""
        better, than = self.sides()
        return {
            "setting": self.setting,
            "better": better,
            "than": than,
            "in": self.claim.column,
            "verdict": self.verdict,
            "rule": self.rule,
            "pairs": [without_nan(asdict(pair)) for pair in self.pairs],
        }


def without_nan(values: dict[str, Any]) -> dict[str, Any]:
    """Return values for JSON, which has no NaN."""
    return {key: None if isinstance(of, float) and math.isnan(of) else of for key, of in values.items()}


def verdicts(table: Table) -> list[Verdict]:
    """Return what came of every claim of a table, setting by setting."""
    found = []
    for name, setting in table.settings.items():
        lines = {line.row.title: line for line in table.lines if line.row.setting == name}
        for claim in table.ablation.claims:
            pairs = [
                compare(table, lines[better], lines[than], claim.column)
                for better in claim.better
                for than in claim.than
                if better in lines and than in lines  # others' work has no row where there is no file of it
            ]
            where = f"{setting.title}: " if len(table.settings) > 1 else ""
            found += [Verdict(claim, name, where, pairs)] if pairs else []
    return found


def compare(table: Table, first: Line, second: Line, column: str) -> Comparison:
    """Compare two rows of a table; the verdict is on the first being better."""
    pairs = paired(table.runs, first, second, column)
    sign = 1 if columns()[column].better == "lower" else -1
    gain = sign * (pairs["value_second"] - pairs["value_first"])
    spread, spread_of = _spread(table, pairs, (first, second), column)
    agree, contradict = int((gain > 0).sum()), int((gain < 0).sum())
    clear = bool(abs(gain.mean()) > 2 * spread)
    complete = all(
        (cell := table.cell(line, column)) and cell.runs == len(line.evaluated) for line in (first, second)
    )
    if pairs.empty or not complete:
        verdict = "undecided"
    elif spread_of == "training":
        verdict = "within the spread"
        if clear and len(pairs) in (agree, contradict):
            verdict = "holds" if agree else "does not hold"
    elif spread_of == "sampling" and not clear:
        verdict = "within the spread"
    else:
        verdict = "in this one run" if agree else "not in this one run"
    return Comparison(
        better=first.row.title,
        than=second.row.title,
        better_mean=float(pairs["value_first"].mean()),
        than_mean=float(pairs["value_second"].mean()),
        pairs=len(pairs),
        agree=agree,
        spread=spread,
        spread_of=spread_of,
        clear=clear,
        verdict=verdict,
    )


def _spread(table: Table, pairs: pd.DataFrame, lines: tuple[Line, Line], column: str) -> tuple[float, str]:
    """Return the pooled spread over runs, or over blocks of latents where each side has one run."""
    sides = [pairs.drop_duplicates(f"entry_{side}")[f"value_{side}"] for side in ("first", "second")]
    cells = [cell for line in lines if (cell := table.cell(line, column))]
    for kind, variances in (
        ("training", [side.var() for side in sides]),
        ("sampling", [cell.sampling_std**2 for cell in cells]),
    ):
        if known := [variance for variance in variances if not np.isnan(variance)]:
            return float(np.sqrt(np.mean(known))), kind
    return np.nan, "none"


def _listed(parts: list[str]) -> str:
    """Join words as in a sentence: `a, b and c`."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def claims_in_markdown(found: Iterable[Verdict]) -> str:
    """Return a list of claims with their verdicts and means, and the rules they follow."""
    lines: list[str] = []
    for verdict in found:
        lines.append(f"- **{verdict.verdict.capitalize()}:** {verdict.text}.")
        lines += [f"  - {verdict.evidence(pair)}: {pair.verdict}" for pair in verdict.pairs]
    rules = dict.fromkeys(verdict.rule for verdict in found)
    return "\n".join(["## Claims", "", *lines, "", *rules]) if lines else ""
