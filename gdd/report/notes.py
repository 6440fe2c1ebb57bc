"""What stands below a table: over what its spreads go, and what its columns mean."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from gdd.config.metrics import columns
from gdd.report.evaluated import Key
from gdd.report.table import REPORTED, Line, Table


def note(table: Table) -> str:
    """Say what the spreads in the cells are and over what they go, or that there are none."""
    blocks = [line.blocks for line in table.lines if line.kind != "floor" and not line.missing]
    known = (of.metrics.get("provenance", {}).get("samples") for line in table.lines for of in line.evaluated)
    samples = next(filter(None, known), None)
    of = f" of {samples:,} images" if samples else ""
    parts = [
        f"± is the sampling spread: the standard deviation over {_span(blocks)} blocks{of}, each generated "
        "from its own latents by the same weights, pooled over runs."
        if max(blocks) > 1
        else f"One block{of} per run, so the sampling spread is unknown."
    ]
    students, teachers = table.students(), [line for line in table.lines if line.kind == "teacher"]
    if over := designs(students):
        also = f", in the teachers' rows over {designs(teachers)}" if designs(teachers) else ""
        parts.append(
            f"[ ] is the training spread: the standard deviation over {over}{also}; the runs of a teacher "
            "share it, its solved pairs, the feature networks and the data."
        )
    elif students:
        parts.append("One training run per row, so the training spread is unknown.")
    if "fid_difference" in table.ablation.columns:
        cells = [cell for line in students if (cell := table.cell(line, "fid_difference"))]
        pairs = [cell.runs for cell in cells if not math.isnan(cell.standard_error)]
        meaning = (
            "SE is the standard error of the mean of the differences between runs of the same teacher and "
            f"seed ({_span(pairs)} pairs)"
            if pairs
            else "its uncertainty is unknown without two runs of the same teachers and seeds"
        )
        change = "FID change is a student's mean FID minus that of the student in the row above"
        parts.append(f"{change}; {meaning}.")
    if "reported_fid" in table.ablation.columns and table.elsewhere:
        parts.append(f"FID that is reported of other one-step generators: {_elsewhere(table)}.")
    for line in table.lines:
        if line.missing:
            parts.append(f"{line.row.title} is missing (–); make it with `{line.command}`.")
    return " ".join(parts)


def _elsewhere(table: Table) -> str:
    by_setting: dict[str, list[str]] = {}
    for of in table.elsewhere:
        by_setting.setdefault(of.setting, []).append(f"{of.work} {of.fid:g} ({of.source})")
    return "; ".join(f"{table.settings[name].title}: {', '.join(each)}" for name, each in by_setting.items())


def designs(lines: Iterable[Line], fewest: int = 2) -> str:
    """Return over which runs the lines go: of those with two runs or more, which have a training spread."""
    return " or ".join(dict.fromkeys(runs_in_words(of.keys) for of in lines if len(of.keys) >= fewest))


def runs_in_words(keys: Sequence[Key]) -> str:
    """Write over what a training spread goes: `6 runs: 3 seeds × 2 teachers`, or `2 teachers`."""
    teachers, seeds = (len(set(part) - {None}) for part in zip(*keys, strict=True))
    if not seeds:
        return counted(teachers, "teacher")
    words = f"{counted(len(keys), 'run')}: {counted(seeds, 'seed')}"
    if teachers == 1:
        return f"{words}, one teacher"
    return f"{words} {'×' if len(keys) == seeds * teachers else 'and'} {counted(teachers, 'teacher')}"


def counted(count: int, noun: str) -> str:
    """Write `1 run` or `2 runs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _span(numbers: list[int]) -> str:
    return str(numbers[0]) if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"


def setting_notes(table: Table) -> list[str]:
    """Return what to bear in mind of the table's settings, once each."""
    return list(dict.fromkeys(text for setting in table.settings.values() for text in setting.notes))


def definitions(table: Table) -> dict[str, str]:
    """Return what every column means; where that differs between settings, it says so of each."""
    known = columns()
    found = {column: known[column].meaning for column in table.ablation.columns if known[column].meaning}
    texts: dict[str, dict[str, dict[str, None]]] = {}  # by column and text, the settings that it is of
    for line in table.lines:
        title = table.settings[line.row.setting].title
        for of in line.evaluated:
            for column, text in (of.metrics.get("definitions") or {}).items():
                texts.setdefault(column, {}).setdefault(text, {})[title] = None
    for column, by_text in texts.items():
        several = [f"{', '.join(titles)}: {text}" for text, titles in by_text.items()]
        found[column] = next(iter(by_text)) if len(by_text) == 1 else "; ".join(several)
    sources = dict.fromkeys(line.reported.source for line in table.lines if line.reported)
    if sources:
        for column in REPORTED:
            found[column] = f"{known[column].meaning} Sources: {'; '.join(sources)}."
    return found
