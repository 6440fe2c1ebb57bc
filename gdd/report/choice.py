"""Of every method in a search, the row with the lowest mean FID, as a block for a setting's file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gdd.errors import UserError
from gdd.experiments import Experiments
from gdd.files import write_text
from gdd.report.comparison import leaves, plain, ranked
from gdd.report.inputs import choice_file
from gdd.report.paired import compare_runs
from gdd.report.runs import runs_in_words
from gdd.report.table import Line, Table
from gdd.report.tables import build_table
from gdd.targets.paths import CHOICE_ENDINGS

WITHIN = "Within the spread: apart by at most twice the pooled standard deviation over runs."


@dataclass(frozen=True)
class Candidate:
    """A row of a method: its line in the table and the recipe keys it sets."""

    line: Line
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """The chosen row of a method, the runner-up, and what weakens the choice.

    `edges` says in words at which ends of what was tried the chosen values lie. `doubt` says that the
    runner-up cannot be told apart, or that nobody knows; it is empty where it can.
    """

    method: str
    line: Line
    changes: Mapping[str, Any]
    runner_up: Candidate | None
    edges: tuple[str, ...]
    doubt: str


def choices(table: Table, experiments: Experiments) -> list[Choice]:
    """Return the row with the lowest mean of every method, in the table's order.

    A row counts only if each of its runs has the number: what diverged once is not chosen for the rest.

    Raises:
        UserError: the table chooses nothing.
    """
    column = _column(table.name, experiments)
    chosen = []
    for method, rows in candidates(table, experiments).items():
        whole = {row.line.title: row for row in rows if _complete(row.line, column)}
        order = [whole[line.title] for line in ranked((row.line for row in whole.values()), column)]
        if order:
            best, runner_up = order[0], order[1] if len(order) > 1 else None
            doubt = _doubt(best.line, runner_up.line, column) if runner_up else ""
            chosen.append(Choice(method, best.line, best.changes, runner_up, _edges(best, rows), doubt))
    return chosen


def candidates(table: Table, experiments: Experiments) -> dict[str, list[Candidate]]:
    """Return the rows of every method, in the table's order."""
    lines = {line.title: line for line in table.lines}
    found: dict[str, list[Candidate]] = {}
    for row in experiments.rows(table.name):
        if row.method is not None:
            found.setdefault(row.method, []).append(Candidate(lines[row.title], row.changes))
    return found


def write_choice(experiments: Experiments, name: str, results: Path) -> list[Path]:
    """Write what the ablation `name` chooses as `tables/<name>-choice.yaml` and `.md` below `results`.

    Raises:
        UserError: the ablation has no `choose`, or an input file is missing.
    """
    _column(name, experiments)
    table = build_table(experiments, name, results)
    paths = [results / choice_file(name, ending) for ending in CHOICE_ENDINGS]
    write_text(paths[0], to_yaml(table, experiments))
    write_text(paths[1], to_markdown(table, experiments))
    return paths


def to_yaml(table: Table, experiments: Experiments) -> str:
    """Return the `methods:` of a setting with the chosen keys, and beside each what speaks for it."""
    column = _column(table.name, experiments)
    chosen = {choice.method: choice for choice in choices(table, experiments)}
    lines = [
        f"# Chosen in '{table.name}' for the `methods` of a setting: per method the row with the lowest",
        f"# {_over(table)}",
        f"# {WITHIN}",
        "methods:" if chosen else "methods: {}",
    ]
    for method, rows in candidates(table, experiments).items():
        if method not in chosen:
            lines.append(f"  # {method}: no row has an FID in every run")
            continue
        choice = chosen[method]
        flow = yaml.safe_dump(dict(choice.changes), default_flow_style=True, sort_keys=False, width=10**6)
        following = _next(choice, rows, column) + (f", {choice.doubt}" if choice.doubt else "")
        remark = "; ".join([_measured(choice, column), following, *choice.edges])
        lines.append(f"  {method}: {flow.strip()}  # {remark}")
    return "\n".join(lines) + "\n"


def to_markdown(table: Table, experiments: Experiments) -> str:
    """Return a matrix of methods and values tried with the mean FID and every run's, the chosen one bold."""
    column = _column(table.name, experiments)
    chosen = {choice.method: choice for choice in choices(table, experiments)}
    found = candidates(table, experiments)
    tried = list(dict.fromkeys(_label(row, rows, full=True) for rows in found.values() for row in rows))
    matrix = [["Method", *tried], ["---"] + ["---:"] * len(tried)]
    remarks = []
    for method, rows in found.items():
        title = experiments.config.methods[method].title.replace("|", r"\|")
        cells = {_label(row, rows, full=True): _cell(row.line, column) for row in rows}
        if method in chosen:
            choice = chosen[method]
            best = _label(Candidate(choice.line, choice.changes), rows, full=True)
            cells[best] = f"**{cells[best]}**"
            weak = [f"{_next(choice, rows, column)}, {choice.doubt}"] if choice.doubt else []
            weak += [f"chosen is {edge}" for edge in choice.edges]
            if weak:
                remarks.append(f"- {title}: {'; '.join(weak)}.")
        else:
            remarks.append(f"- {title}: no row has an FID in every run, so none is chosen.")
        matrix.append([title, *(cells.get(label, "") for label in tried)])
    body = "\n".join(f"| {' | '.join(row)} |" for row in matrix)
    note = f"The numbers are the {_over(table)} In brackets: every run's. Bold: the lowest of the method."
    if remarks:
        note += f" {WITHIN}"
    parts = [f"# {table.title}: what is chosen", table.caption, body, note, "\n".join(remarks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _column(name: str, experiments: Experiments) -> str:
    choose = experiments.config.ablations[name].choose
    if choose is None:
        where = experiments.config.where("ablations", name)
        raise UserError(f"{where} chooses nothing; add `choose: {{per: method, by: fid}}` to it.")
    return choose.by


def _complete(line: Line, column: str) -> bool:
    return column in line.cells and line.cells[column].runs == len(line.runs)


def _doubt(best: Line, runner_up: Line, column: str) -> str:
    found = compare_runs(runner_up, best, column)
    if found is None or found.pooled_std is None:
        return "the spread is unknown with one run a row"
    if found.clear:
        return ""
    return f"within the spread (2 × {found.pooled_std:.2f})"


def _edges(best: Candidate, rows: Sequence[Candidate]) -> tuple[str, ...]:
    """Return for every number that was varied whether the chosen one is the smallest or largest tried."""
    words = []
    for key in _varied(rows):
        values: list[Any] = [dict(leaves(row.changes)).get(key) for row in rows]
        numbers: list[float] = [value for value in values if _is_number(value)]
        own = dict(leaves(best.changes)).get(key)
        if len(numbers) == len(values) and own in (min(numbers), max(numbers)):
            end = "smallest" if own == min(numbers) else "largest"
            words.append(f"the {end} {key} tried")
    return tuple(words)


def _next(choice: Choice, rows: Sequence[Candidate], column: str) -> str:
    if choice.runner_up is None:
        return "nothing else to choose from"
    mean = choice.runner_up.line.cells[column].mean
    return f"next: {_label(choice.runner_up, rows)} with {mean:.2f}"


def _measured(choice: Choice, column: str) -> str:
    values = ", ".join(f"{run.values[column]:.2f}" for run in choice.line.runs)
    count = len(choice.line.runs)
    each = f" ({count} runs: {values})" if count > 1 else ""
    return f"FID {choice.line.cells[column].mean:.2f}{each}"


def _cell(line: Line, column: str) -> str:
    values = [f"{run.values[column]:.2f}" if column in run.values else "none" for run in line.runs]
    if not _complete(line, column):
        return f"– ({', '.join(values)})"
    return f"{line.cells[column].mean:.2f}" + (f" ({', '.join(values)})" if len(values) > 1 else "")


def _label(row: Candidate, rows: Sequence[Candidate], full: bool = False) -> str:
    """Name a row by what was varied in its method; by the value alone where that is one key."""
    own, varied = dict(leaves(row.changes)), _varied(rows)
    if len(varied) == 1 and not full:
        return plain(own.get(varied[0]))
    return ", ".join(f"{key} {plain(own[key])}" for key in varied if key in own) or "unchanged"


def _varied(rows: Sequence[Candidate]) -> list[str]:
    """Return the recipe keys that are not the same in all rows of a method."""
    found = [dict(leaves(row.changes)) for row in rows]
    keys = dict.fromkeys(key for row in found for key in row)
    return [key for key in keys if any(row.get(key) != found[0].get(key) for row in found)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _over(table: Table) -> str:
    designs = dict.fromkeys(runs_in_words(line.keys) for line in table.lines if line.trained)
    return f"mean FID over a row's {' or '.join(designs)}."
