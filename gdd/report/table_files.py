"""A table as CSV, Markdown, LaTeX and JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

from gdd.files import write_json, write_text
from gdd.report.note import note
from gdd.report.style import COLUMNS, column_title
from gdd.report.table import Table, cell_text, headings, leads
from gdd.targets.paths import TABLE_ENDINGS

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


def write_table(table: Table, folder: Path) -> list[Path]:
    """Write `<name>.csv`, `.md`, `.tex` and `.json` into `folder` and return their paths."""
    paths = [folder / f"{table.name}.{ending}" for ending in TABLE_ENDINGS]
    write_text(paths[0], to_csv(table))
    write_text(paths[1], to_markdown(table))
    write_text(paths[2], to_latex(table))
    write_json(paths[3], to_json(table))
    return paths


def to_json(table: Table) -> dict[str, Any]:
    """Return the whole table as plain JSON values, the numbers of every single run included."""
    data = dataclasses.asdict(table)
    data["columns"] = [{"key": column, "title": column_title(column)} for column in table.columns]
    data["note"] = note(table)
    return data


def to_csv(table: Table) -> str:
    """Return every number at full precision, each spread in a column of its own, empty where unknown."""
    columns = [*table.columns, *(column for column in ("images", "seconds") if column not in table.columns)]
    header = ["setting", "row", "kind", "run", "teachers", "seeds", "runs", "blocks"]
    for column in columns:
        header.append(column)
        if column == "trainable":
            header.append("total_parameters")
        if COLUMNS[column].signed:
            header.append(f"{column}_standard_error")
        if COLUMNS[column].spread:
            header += [f"{column}_sampling_std", f"{column}_training_std"]
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n", restval="")
    writer.writeheader()
    for line in table.all_lines():
        record: dict[str, Any] = {
            "setting": line.setting,
            "row": line.title,
            "kind": line.kind,
            "run": line.run,
            "teachers": " ".join(dict.fromkeys(teacher for teacher, _ in line.keys)),
            "seeds": " ".join(dict.fromkeys(str(seed) for _, seed in line.keys if seed is not None)),
            "runs": len(line.runs) or "",
            "blocks": "" if line.kind == "floor" else line.blocks,
        }
        for column in columns:
            cell = line.cells.get(column)
            if cell is None:
                continue
            whole = COLUMNS[column].decimals is None and not COLUMNS[column].spread
            record[column] = int(cell.mean) if whole else cell.mean
            if column == "trainable":
                record["total_parameters"] = line.parameters.get("total")
            if COLUMNS[column].signed:
                record[f"{column}_standard_error"] = cell.standard_error
            if COLUMNS[column].spread:
                record[f"{column}_sampling_std"] = cell.sampling_std
                record[f"{column}_training_std"] = cell.training_std
        writer.writerow(record)
    return text.getvalue()


def to_markdown(table: Table) -> str:
    """Return a Markdown table under its title, with a note on the spreads."""
    titles = headings(table)
    names = len(titles) - len(table.columns)
    rows = [titles, ["---"] * names + ["---:"] * len(table.columns)]
    for line in table.all_lines():
        cells = [*leads(table, line), *(str(cell_text(line, column)) for column in table.columns)]
        rows.append([cell.replace("|", r"\|") for cell in cells])
    body = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    caption = f"{table.caption}\n\n" if table.caption else ""
    return f"# {table.title}\n\n{caption}{body}\n\n{note(table)}\n"


def to_latex(table: Table) -> str:
    """Return a `booktabs` table; it needs `\\usepackage{booktabs}` and nothing else."""
    names = len(headings(table)) - len(table.columns)
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{latex(f'{table.title}. {table.caption} {note(table)}'.replace('  ', ' '))}}}",
        rf"  \label{{tab:{table.name}}}",
        rf"  \begin{{tabular}}{{{'l' * names}{'r' * len(table.columns)}}}",
        r"    \toprule",
        f"    {' & '.join(map(latex, headings(table)))} \\\\",
        r"    \midrule",
    ]
    for line in table.all_lines():
        if line.kind == "floor":
            lines.append(r"    \addlinespace")
        cells = [*leads(table, line), *(str(cell_text(line, column)) for column in table.columns)]
        lines.append(f"    {' & '.join(map(latex, cells))} \\\\")
    lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def latex(text: str) -> str:
    """Escape what LaTeX would take for a command."""
    return "".join(_LATEX.get(character, character) for character in text)
