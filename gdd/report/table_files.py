"""How a table reads, and the table as CSV, Markdown, LaTeX and JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from gdd.config.metrics import columns
from gdd.files import write_json, write_text
from gdd.paths import table_files
from gdd.report.claims import Verdict, claims_in_markdown, verdicts, without_nan
from gdd.report.notes import definitions, note, setting_notes
from gdd.report.table import Line, Table

_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "[": "{[}",  # or a cell that begins a line would be an argument of the line break before it
        "<": "$<$",
        ">": "$>$",
        "±": r"$\pm$",
        "↓": r"$\downarrow$",
        "↑": r"$\uparrow$",
        "−": "$-$",
        "–": "--",
        "×": r"$\times$",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
    }
)


def write_table(table: Table) -> list[Path]:
    """Write the table in every format and return their paths."""
    paths, found = table_files(table.name), verdicts(table)
    write_text(paths[0], to_csv(table))
    write_text(paths[1], to_markdown(table, found))
    write_text(paths[2], to_latex(table))
    write_json(paths[3], to_json(table, found))
    return paths


# --- in words -------------------------------------------------------------------------------------------


class CellText(NamedTuple):
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
    """Write a cell; a missing number gives empty text, a missing row a dash."""
    cell, style = table.cell(line, column), columns()[column]
    if cell is None:
        return CellText("–" if line.missing else "")
    if column == "trainable":
        return CellText(_trainable(cell.mean, line.parameters.get("total")))
    places = style.places(cell.mean)
    if style.signed:
        return CellText(_signed(cell.mean, places), error=_spread(cell.standard_error, places))
    if not style.spread:
        return CellText(style.write(cell.mean))
    spreads = (_spread(std, places) for std in (cell.sampling_std, cell.training_std))
    return CellText(style.write(cell.mean), *spreads)


def _signed(value: float, places: int) -> str:
    """Write a difference with its sign, a true minus; what rounds to zero has none."""
    text = f"{value:+,.{places}f}"
    return text.lstrip("+-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def _spread(value: float, places: int) -> str:
    if math.isnan(value):
        return ""
    # A spread that rounds to zero must not read as if there were none.
    smallest = 10.0**-places
    return f"<{smallest:.{places}f}" if 0 < value < smallest / 2 else f"{value:,.{places}f}"


def _trainable(count: float, total: int | None) -> str:
    text = f"{count:.0f}"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            text = f"{count / size:.{0 if count / size >= 100 else 1}f} {unit}"
            break
    return f"{text} ({100 * count / total:.1f} %)" if total else text


def headings(table: Table) -> list[str]:
    """Return the titles of the columns, a setting's first where there are several."""
    lead = ["Setting", "Model"] if len(table.settings) > 1 else ["Model"]
    return [*lead, *(columns()[column].heading for column in table.ablation.columns)]


def leads(table: Table, line: Line) -> list[str]:
    """Return what names a line: its title, after the setting's where there are several."""
    setting = [table.settings[line.row.setting].title] if len(table.settings) > 1 else []
    return [*setting, line.row.title]


# --- as files -------------------------------------------------------------------------------------------


def to_csv(table: Table) -> str:
    """Return every number at full precision, each spread in a column of its own, empty where unknown."""
    records = []
    for line in table.lines:
        record: dict[str, Any] = {
            "setting": line.row.setting,
            "row": line.row.title,
            "kind": line.kind,
            "run": line.row.runs[0].id if line.trained else None,
            "teachers": " ".join(dict.fromkeys(teacher for teacher, _ in line.keys if teacher)),
            "seeds": " ".join(dict.fromkeys(str(seed) for _, seed in line.keys if seed is not None)),
            "runs": len(line.keys) or None,
            "blocks": None if line.kind == "floor" or line.missing else line.blocks,
        }
        for column in dict.fromkeys([*table.ablation.columns, "images", "seconds"]):
            style, cell = columns()[column], table.cell(line, column)
            whole = style.decimals is None and not style.spread
            record[column] = int(cell.mean) if cell and whole else cell and cell.mean
            if column == "trainable":
                record["total_parameters"] = line.parameters.get("total")
            keys = ["standard_error"] if style.signed else []
            keys += ["sampling_std", "training_std"] if style.spread else []
            record |= {f"{column}_{key}": getattr(cell, key, None) for key in keys}
        records.append(record)
    # As objects, so that whole numbers beside empty cells stay whole.
    return pd.DataFrame(records, dtype=object).to_csv(index=False, lineterminator="\n")


def to_markdown(table: Table, found: Iterable[Verdict]) -> str:
    """Return a Markdown table under its title, with its note and claims."""
    of, notes = table.ablation, [f"- {text}" for text in setting_notes(table)]
    titles = headings(table)
    body = markdown([titles, *_text_rows(table)], len(titles) - len(of.columns))
    parts = [f"# {of.title}", of.caption, body, note(table), claims_in_markdown(found)]
    parts += ["## Notes", "\n".join(notes)] if notes else []
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown(rows: Sequence[Sequence[str]], left: int) -> str:
    """Return rows, the first of them titles, as a Markdown table; columns after `left` are aligned right."""
    titles, *others = ([cell.replace("|", r"\|") for cell in row] for row in rows)
    rule = ["---"] * left + ["---:"] * (len(titles) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, rule, *others))


def to_latex(table: Table) -> str:
    """Return a `booktabs` table; it needs `\\usepackage{booktabs}` and nothing else."""
    titles = headings(table)
    names = len(titles) - len(table.ablation.columns)
    caption = " ".join(
        part for part in (f"{table.ablation.title}.", table.ablation.caption, note(table)) if part
    )
    frame = pd.DataFrame(_text_rows(table), columns=titles).map(latex).rename(columns=latex)
    return frame.style.hide(axis="index").to_latex(
        column_format="l" * names + "r" * len(table.ablation.columns),
        position_float="centering",
        hrules=True,
        caption=latex(caption),
        label=f"tab:{table.name}",
    )


def latex(text: str) -> str:
    """Escape what LaTeX would take for a command."""
    return text.translate(_LATEX)


def _text_rows(table: Table) -> list[list[str]]:
    return [
        [*leads(table, line), *(str(cell_text(table, line, column)) for column in table.ablation.columns)]
        for line in table.lines
    ]


def to_json(table: Table, found: Iterable[Verdict]) -> dict[str, Any]:
    """Return the whole table as plain JSON values, the values of every single run included."""
    return {
        "name": table.name,
        "title": table.ablation.title,
        "caption": table.ablation.caption,
        "columns": [{"key": column, "title": columns()[column].heading} for column in table.ablation.columns],
        "settings": {name: setting.title for name, setting in table.settings.items()},
        "lines": [_line(table, line) for line in table.lines],
        "definitions": definitions(table),
        "note": note(table),
        "notes": setting_notes(table),
        "claims": [verdict.to_json() for verdict in found],
    }


def _line(table: Table, line: Line) -> dict[str, Any]:
    runs = table.runs[table.runs["line"] == line.number].drop(columns=["line", "entry"]).astype(object)
    cells = {column: cell for (number, column), cell in table.cells.items() if number == line.number}
    return {
        "title": line.row.title,
        "setting": line.row.setting,
        "kind": line.kind,
        "method": line.row.method,
        "run": line.row.runs[0].id if line.trained else None,
        "at": line.row.at,
        "teacher_steps": line.row.teacher_steps,
        "parameters": line.parameters,
        "blocks": line.blocks,
        "missing": line.command if line.missing else None,
        "cells": {column: without_nan(asdict(cell)) for column, cell in cells.items()},
        "runs": runs.where(runs.notna(), None).to_dict("records"),
    }
