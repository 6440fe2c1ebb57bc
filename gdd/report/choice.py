"""Of every method in a search, the row with the lowest mean FID, as a block for a setting's file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from gdd.errors import UserError
from gdd.experiments import Experiments
from gdd.files import write_text
from gdd.paths import choice_files
from gdd.report.claims import compare
from gdd.report.notes import designs
from gdd.report.table import Line, Table, build_table
from gdd.report.table_files import markdown

WITHIN = "Within the spread: apart by at most twice the pooled standard deviation over runs."


@dataclass(frozen=True)
class Choice:
    """What was tried for a method, which of it is chosen, and what weakens the choice.

    `tried` has by line of the table: `name`, what was varied in the method, `mean` over the runs, and `each`
    run's number. The mean is NaN unless all runs have a number, because what diverged once is not chosen;
    `chosen` is None where that leaves no row. `doubt` says that the next best row cannot be told apart, or
    that nobody knows; `edges` at which ends of what was tried the chosen values lie.
    """

    method: str
    tried: pd.DataFrame
    chosen: Line | None = None
    following: str = ""  # the next best row in words
    doubt: str = ""
    edges: Sequence[str] = ()


def write_choice(experiments: Experiments, name: str) -> list[Path]:
    """Write what the ablation `name` chooses as YAML for a setting and as Markdown.

    Raises:
        UserError: the ablation has no `choose`, or an input file is missing.
    """
    if not experiments.config.ablations[name].choose:
        where = experiments.config.where("ablations", name)
        raise UserError(f"{where} chooses nothing; add `choose: true` to it.")
    table = build_table(experiments, name)
    found = choices(table)
    titles = {method: record.title for method, record in experiments.config.methods.items()}
    files = choice_files(name)
    write_text(files[0], to_yaml(table, found))
    write_text(files[1], to_markdown(table, found, titles))
    return files


def choices(table: Table) -> list[Choice]:
    """Return what is chosen for every method, in the table's order."""
    methods = dict.fromkeys(line.row.method or "" for line in table.students())
    return [_choose(table, method) for method in methods]


def _choose(table: Table, method: str) -> Choice:
    lines = {line.number: line for line in table.students() if line.row.method == method}
    changes = [dict(line.row.changes) for line in lines.values()]
    keys = pd.json_normalize(changes).set_axis(list(lines))  # dotted keys
    varied = keys.loc[:, keys.astype(str).nunique() > 1]
    fid = table.runs[table.runs["column"] == "fid"].pivot(index="line", columns="entry", values="value")
    most = max(1, *(len(line.evaluated) for line in lines.values()))
    fid = fid.reindex(index=keys.index, columns=range(most))
    each = fid.map(lambda value: "none" if pd.isna(value) else f"{value:.2f}").agg(", ".join, axis="columns")
    names = [_in_words(row) for _, row in varied.iterrows()]
    tried = pd.DataFrame({"name": names, "mean": fid.mean(axis="columns", skipna=False), "each": each})
    ranked = tried["mean"].dropna().sort_values(kind="stable").index
    if ranked.empty:
        return Choice(method, tried)
    best, following, doubt = ranked[0], "nothing else to choose from", ""
    if len(ranked) > 1:
        found = compare(table, lines[best], lines[ranked[1]], "fid")
        if found.spread_of != "training":
            doubt = "the spread is unknown with one run a row"
        elif not found.clear:
            doubt = f"within the spread (2 × {found.spread:.2f})"
        following = f"next: {names[list(lines).index(ranked[1])]} with {tried['mean'][ranked[1]]:.2f}"
        following += f", {doubt}" if doubt else ""
    edges = [
        f"the {'smallest' if values[best] == values.min() else 'largest'} {key} tried"
        for key, values in varied.select_dtypes("number").items()
        if values[best] in (values.min(), values.max())
    ]
    return Choice(method, tried, lines[best], following, doubt, edges)


def _in_words(values: pd.Series) -> str:
    words = [
        f"{key} {of:g}" if isinstance(of, float) else f"{key} {of}" for key, of in values.dropna().items()
    ]
    return ", ".join(words) or "unchanged"


def to_yaml(table: Table, found: Sequence[Choice]) -> str:
    """Return the `methods:` of a setting with the chosen keys, and beside each what speaks for it."""
    lines = [
        f"# Chosen in '{table.name}' for the `methods` of a setting: per method the row with the lowest",
        f"# {_over(table)}",
        f"# {WITHIN}",
        "methods:" if any(choice.chosen is not None for choice in found) else "methods: {}",
    ]
    for choice in found:
        if choice.chosen is None:
            lines.append(f"  # {choice.method}: no row has an FID in every run")
            continue
        best, entries = choice.tried.loc[choice.chosen.number], choice.chosen.evaluated
        changes = dict(choice.chosen.row.changes)
        flow = yaml.safe_dump(changes, default_flow_style=True, sort_keys=False, width=10**6)
        each = f" ({len(entries)} runs: {best['each']})" if len(entries) > 1 else ""
        remark = "; ".join([f"FID {best['mean']:.2f}{each}", choice.following, *choice.edges])
        lines.append(f"  {choice.method}: {flow.strip()}  # {remark}")
    return "\n".join(lines) + "\n"


def to_markdown(table: Table, found: Sequence[Choice], titles: Mapping[str, str]) -> str:
    """Return a matrix of methods and values tried with the mean FID and every run's, the chosen one bold."""
    values = pd.concat([choice.tried["name"] for choice in found]).unique()
    matrix, remarks = [["Method", *values]], []
    for choice in found:
        title = titles[choice.method]
        best = choice.chosen.number if choice.chosen else None
        cells = {row["name"]: _cell(row, number == best) for number, row in choice.tried.iterrows()}
        matrix.append([title, *(cells.get(value, "") for value in values)])
        weak = [choice.following] if choice.doubt else []
        weak += [f"chosen is {edge}" for edge in choice.edges]
        if choice.chosen is None:
            weak = ["no row has an FID in every run, so none is chosen"]
        remarks += [f"- {title}: {'; '.join(weak)}."] if weak else []
    note = f"The numbers are the {_over(table)} In brackets: every run's. Bold: the lowest of the method."
    note += f" {WITHIN}" if remarks else ""
    of = table.ablation
    parts = [f"# {of.title}: what is chosen", of.caption, markdown(matrix, 1), note, "\n".join(remarks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _cell(row: pd.Series, chosen: bool) -> str:
    if pd.isna(row["mean"]):
        return f"– ({row['each']})"
    text = f"{row['mean']:.2f}" + (f" ({row['each']})" if "," in row["each"] else "")
    return f"**{text}**" if chosen else text


def _over(table: Table) -> str:
    return f"mean FID over a row's {designs(table.students(), fewest=1)}."
