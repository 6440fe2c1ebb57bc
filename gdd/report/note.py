"""The note below a table: what the spreads are, over what they go, and how some columns come about."""

from __future__ import annotations

from collections.abc import Sequence

from gdd.report.runs import runs_in_words
from gdd.report.table import Line, Table


def note(table: Table) -> str:
    """Say what the two spreads in the cells are, or that there is none, and what derived columns hold."""
    students = [line for line in table.lines if line.trained]
    teachers = [line for line in table.lines if line.kind == "teacher"]
    parts = [_sampling(table), *_training(students, teachers)]
    if "fid_difference" in table.columns:
        parts.append(_difference(students))
    if {"best_fid", "best_fid_fresh", "final_fid_fresh"} & set(table.columns):
        parts.append(_best(students))
    return " ".join(parts)


def _sampling(table: Table) -> str:
    blocks = sorted({line.blocks for line in table.lines})
    of = f" of {table.samples:,} images" if table.samples else ""
    if not blocks or blocks[-1] == 1:
        return f"One block{of} per run, so the sampling spread is unknown."
    return (
        f"± is the sampling spread: the standard deviation over {_span(blocks)} blocks{of}, each "
        "generated from its own latents by the same weights, pooled over runs."
    )


def _training(students: Sequence[Line], teachers: Sequence[Line]) -> list[str]:
    designs = _designs(students)
    if not designs:
        text = "One training run per row, so the training spread is unknown."
        return [text] if students else []
    text = f"[ ] is the training spread: the standard deviation over {designs}"
    if own := _designs(teachers):
        text += f", in the teachers' rows over {own}"
    text += "; the runs of a teacher share it, its solved pairs, the feature networks and the data"
    return [f"{text}."]


def _difference(students: Sequence[Line]) -> str:
    errors = [
        cell
        for line in students
        if (cell := line.cells.get("fid_difference")) is not None and cell.standard_error is not None
    ]
    text = "FID change is a student's mean FID minus that of the student in the row above"
    if not errors:
        return f"{text}; its uncertainty is unknown without two runs of the same teachers and seeds."
    pairs = _span(sorted({cell.runs for cell in errors}))
    return (
        f"{text}; SE is the standard error of the mean of the differences between runs of the same teacher "
        f"and seed ({pairs} pairs)."
    )


def _best(students: Sequence[Line]) -> str:
    rules = dict.fromkeys(run.best_rule for line in students for run in line.runs if run.best_rule)
    rule = f" ({'; '.join(rules)})" if rules else ""
    blocks = sorted({len(run.best_fid_blocks) for line in students for run in line.runs} - {0})
    fresh = [count - 1 for count in blocks if count > 1]
    text = f"Best is the snapshot chosen in every run{rule}: on that block its FID comes out too low."
    if fresh:
        text += (
            f" The fresh blocks, {_span(fresh)} a run, had no part in the choice; mean and spread in their "
            "columns are over them alone."
        )
    return text


def _designs(lines: Sequence[Line]) -> str:
    """Return over which runs the spread goes, for the rows that have one."""
    return " or ".join(dict.fromkeys(runs_in_words(line.keys) for line in lines if len(line.runs) > 1))


def _span(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"
