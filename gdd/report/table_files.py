"""A table as CSV, Markdown, LaTeX and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from gdd.config.metrics import columns
from gdd.files import write_json, write_text
from gdd.paths import table_files
from gdd.report.claims import Verdict, claims_in_markdown, verdicts
from gdd.report.numbers import Evaluated
from gdd.report.table import Line, Table, without_nan
from gdd.report.wording import cell_text, headings, leads, note

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "[": "{[}",  # or a cell that begins a line would be an argument of the line break before it
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "−": r"$-$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
}


def write_table(table: Table) -> list[Path]:
    """Write the table in every format and return their paths."""
    paths = table_files(table.name)
    found = verdicts(table)
    write_text(paths[0], to_csv(table))
    write_text(paths[1], to_markdown(table, found))
    write_text(paths[2], to_latex(table))
    write_json(paths[3], to_json(table, found))
    return paths


def to_csv(table: Table) -> str:
    """Return every number at full precision, each spread in a column of its own, empty where unknown."""
    records = []
    for line in table.lines:
        record: dict[str, Any] = {
            "setting": line.row.setting,
            "row": line.title,
            "kind": line.kind,
            "run": line.row.runs[0].id if line.trained else None,
            "teachers": " ".join(dict.fromkeys(teacher for teacher, _ in line.keys if teacher)),
            "seeds": " ".join(dict.fromkeys(str(seed) for _, seed in line.keys if seed is not None)),
            "runs": len(line.keys) or None,
            "blocks": None if line.kind == "floor" else line.blocks,
        }
        for column in dict.fromkeys([*table.columns, "images", "seconds"]):
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
    titles = headings(table)
    names = len(titles) - len(table.columns)
    rows = [titles, ["---"] * names + ["---:"] * len(table.columns), *_text_rows(table)]
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    body = "\n".join(f"| {' | '.join(row)} |" for row in escaped)
    notes = "\n".join(["## Notes\n", *(f"- {text}" for text in table.notes)] if table.notes else [])
    parts = [f"# {table.title}", table.caption, body, note(table), claims_in_markdown(found), notes]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_latex(table: Table) -> str:
    """Return a `booktabs` table; it needs `\\usepackage{booktabs}` and nothing else."""
    titles = headings(table)
    frame = pd.DataFrame(_text_rows(table), columns=titles).map(latex)
    names = len(titles) - len(table.columns)
    caption = " ".join(part for part in (f"{table.title}.", table.caption, note(table)) if part)
    return (
        frame.rename(columns=latex)
        .style.hide(axis="index")
        .to_latex(
            column_format="l" * names + "r" * len(table.columns),
            position_float="centering",
            hrules=True,
            caption=latex(caption),
            label=f"tab:{table.name}",
        )
    )


def latex(text: str) -> str:
    """Escape what LaTeX would take for a command."""
    return "".join(_LATEX.get(character, character) for character in text)


def _text_rows(table: Table) -> list[list[str]]:
    return [
        [*leads(table, line), *(str(cell_text(table, line, column)) for column in table.columns)]
        for line in table.lines
    ]


def to_json(table: Table, found: Iterable[Verdict]) -> dict[str, Any]:
    """Return the whole table as plain JSON values, the numbers of every single run included."""
    return {
        "name": table.name,
        "title": table.title,
        "caption": table.caption,
        "columns": [{"key": column, "title": columns()[column].heading} for column in table.columns],
        "lines": [_line(table, line) for line in table.lines if line.kind != "floor"],
        "floors": [_line(table, line) for line in table.lines if line.kind == "floor"],
        "settings": table.settings,
        "definitions": table.definitions,
        "samples": table.samples,
        "note": note(table),
        "notes": table.notes,
        "claims": [verdict.to_json() for verdict in found],
    }


def _line(table: Table, line: Line) -> dict[str, Any]:
    run = line.row.runs[0] if line.trained else None
    numbers = table.runs[table.runs["line"] == line.number]
    inside = {column: cell for (number, column), cell in table.cells.items() if number == line.number}
    return {
        "title": line.title,
        "setting": line.row.setting,
        "kind": line.kind,
        "cells": {column: without_nan(asdict(cell)) for column, cell in inside.items()},
        "run": run.id if run else None,
        "method": line.row.method,
        "runs": [
            _run(of, numbers[numbers["entry"] == entry])
            for entry, of in enumerate(line.evaluated)
            if of.teacher
        ],
        "blocks": line.blocks,
        "teacher_steps": line.row.teacher_steps,
        "parameters": line.parameters,
        "recipe": run.recipe.model_dump(mode="json") if run else {},
        "at": line.row.at,
    }


def _run(of: Evaluated, numbers: pd.DataFrame) -> dict[str, Any]:
    values = numbers.set_index("column")
    final, best = of.metrics["final"], of.metrics.get("best") or {}
    return {
        "teacher": of.teacher,
        "seed": of.run.seed if of.run else None,
        "id": of.run.id if of.run else None,
        "values": values["value"].to_dict(),
        "sampling_std": values["sampling_std"].dropna().to_dict(),
        "final_images": final.get("images"),
        "final_fid_blocks": _fid_blocks(final),
        "best_images": best.get("images"),
        "best_fid_blocks": _fid_blocks(best),
        "best_rule": best.get("rule"),
    }


def _fid_blocks(snapshot: Mapping[str, Any]) -> list[float]:
    return [block["fid"] for block in snapshot.get("blocks") or () if block.get("fid") is not None]
