"""What a table says and what it does not, as sentences computed from its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gdd.experiments import Experiments
from gdd.report.caveats import caveats
from gdd.report.choice import choices
from gdd.report.comparison import (
    Finding,
    FindingKind,
    amount,
    clearly_apart,
    listed,
    margin,
    named,
    nearest_unfrozen,
    ranked,
    recipe_differences,
    relation,
    times,
    within,
)
from gdd.report.repeats import compare_repeated, repeated
from gdd.report.style import COLUMNS
from gdd.report.table import Line, Table

__all__ = ["Finding", "findings"]

_NOUNS = {"fid": "FID", "pixel_fid": "pixel FID", "recall": "recall"}


def findings(tables: Sequence[Table], experiments: Experiments) -> list[Finding]:
    """Return what the tables show, then what has to be said beside it; nothing twice."""
    searches = [table for table in tables if _chooses(table, experiments)]
    found = [finding for table in searches for finding in _search(table, experiments)]
    tables = [_chosen_only(table, experiments) for table in tables]
    for table in tables:
        for setting, title in table.settings.items():
            # Of the snapshots of one run only the last is compared: no one chose it.
            lines = [line for line in table.lines if line.setting == setting and line.at == "end"]
            for finding in _compare(lines):
                several = len(table.settings) > 1
                found.append(Finding(finding.kind, f"{title}: {finding.text}") if several else finding)
    return list(dict.fromkeys([*found, *caveats(tables, experiments.config)]))


def _chosen_only(table: Table, experiments: Experiments) -> Table:
    """Leave of a search the row chosen for each method: the others are no one's last word."""
    if not _chooses(table, experiments):
        return table
    chosen = {choice.line.title for choice in choices(table, experiments)}
    lines = tuple(line for line in table.lines if not line.trained or line.title in chosen)
    return replace(table, lines=lines)


def _chooses(table: Table, experiments: Experiments) -> bool:
    return experiments.config.ablations[table.name].choose is not None


def _search(table: Table, experiments: Experiments) -> Iterator[Finding]:
    yield Finding(
        "open",
        f"“{table.title}” is a search: of every method only the chosen row is compared, by the numbers that "
        "chose it, which therefore come out somewhat too good.",
    )
    for choice in choices(table, experiments):
        for edge in choice.edges:
            yield Finding(
                "open",
                f"{choice.line.title}: chosen is {edge}, so a value beyond the grid might have done better.",
            )


def _compare(lines: Sequence[Line]) -> Iterator[Finding]:
    yield from _one_step_teacher(lines)
    if repeated(lines):
        yield from compare_repeated(lines)
    else:
        yield from _objectives(lines, "fid")
        yield from _frozen(lines)
    for column in ("pixel_fid", "recall"):
        yield from _objectives(lines, column)
    yield from _teacher_and_students(lines)


def _one_step_teacher(lines: Sequence[Line]) -> Iterator[Finding]:
    """Compare the teacher at one step with the worst student."""
    students = ranked((line for line in lines if line.trained), "fid")
    for teacher in ranked((line for line in lines if line.teacher_steps == 1), "fid"):
        if not students:
            return
        worst = students[-1]
        ratio = teacher.cells["fid"].mean / worst.cells["fid"].mean
        apart = clearly_apart(teacher.cells["fid"], worst.cells["fid"])
        # Without a known spread, only what is obvious counts.
        if margin(teacher.cells["fid"], worst.cells["fid"]) is None:
            apart = not 0.5 < ratio < 2
        pair = f"{named(teacher, 'fid')} against {named(worst, 'fid')}"
        if ratio > 1:
            text = f"At one step the teacher's FID is {times(ratio)} that of the worst student: {pair}."
            yield Finding("holds" if apart else "open", text)
        else:
            text = f"At one step the teacher is no worse than every student: {pair}."
            yield Finding("turns" if apart else "open", text)


def _objectives(lines: Sequence[Line], column: str) -> Iterator[Finding]:
    """Compare the models with a distributional loss with the purely instance-based ones in a column."""
    ours = ranked((line for line in lines if line.kind in ("distributional", "both")), column)
    theirs = ranked((line for line in lines if line.kind == "instance"), column)
    if not ours or not theirs:
        return
    noun, low = _NOUNS[column], COLUMNS[column].better == "low"
    found = relation(ours, theirs, column)
    if found.order == "mixed":
        order = ranked([*ours, *theirs], column)
        yield Finding(
            "open",
            f"In {noun} neither kind of loss lies wholly ahead: from best to worst, "
            f"{listed([named(line, column) for line in order])}.",
        )
        return
    if found.order == "ahead":
        kind: FindingKind = "holds"
        near, far, best = ours[-1], theirs[0], ours[0]
        text = f"In {noun} every model with a distributional loss lies {'below' if low else 'above'} "
        text += "every purely instance-based one" + (f"; {best.title} leads" if len(ours) > 1 else "")
    else:
        kind = "turns"
        near, far, best = theirs[-1], ours[0], theirs[0]
        text = f"In {noun} {'the order turns: ' if found.clear else ''}{best.title}, instance-based, leads"
    text += f". The closest pair is {named(near, column)} against {named(far, column)}"
    if low and near.cells[column].mean > 0:
        text += f", {times(far.cells[column].mean / near.cells[column].mean)} as much"
    if found.clear:
        yield Finding(kind, text + ".")
    else:
        a, b = _least_clear(ours, theirs, column)
        yield Finding("open", f"{text}; but for {a.title} and {b.title} {within(a, b, column)}.")


def _least_clear(ours: Sequence[Line], theirs: Sequence[Line], column: str) -> tuple[Line, Line]:
    pairs = [(a, b) for a in ours for b in theirs]
    return next(pair for pair in pairs if not clearly_apart(pair[0].cells[column], pair[1].cells[column]))


def _frozen(lines: Sequence[Line]) -> Iterator[Finding]:
    """Compare every frozen model with the unfrozen one of the same objective that is nearest in recipe."""
    measured = [line for line in lines if line.kind == "distributional" and "fid" in line.cells]
    for line in measured:
        other = nearest_unfrozen(line, measured)
        if other is None:
            continue
        both = f"Frozen layers: {named(line, 'fid')} against {named(other, 'fid')} in FID"
        if not clearly_apart(line.cells["fid"], other.cells["fid"]):
            kind: FindingKind = "open"
            text = f"{both}; {within(line, other, 'fid')}."
        elif line.cells["fid"].mean < other.cells["fid"].mean:
            kind = "holds"
            text = f"{both}: freezing does better, by more than twice the spread."
        else:
            kind = "turns"
            text = f"{both}: freezing does worse, by more than twice the spread."
        also = recipe_differences(line, other, "freeze")
        if also:
            text += f" They also differ in {listed(also)}, so this is not the effect of freezing alone."
        yield Finding(kind, text)


def _teacher_and_students(lines: Sequence[Line]) -> Iterator[Finding]:
    """Compare the teacher at its most steps with every student."""
    teachers = [line for line in lines if (line.teacher_steps or 0) > 1 and "fid" in line.cells]
    students = ranked((line for line in lines if line.trained), "fid")
    if not teachers or not students:
        return
    teacher = max(teachers, key=lambda line: line.teacher_steps or 0)
    groups: dict[str, list[Line]] = {"below": [], "within": [], "above": []}
    for line in students:
        groups[_side(line, teacher)].append(line)
    calls = teacher.value("evaluations")
    cost = f" with {calls:.0f} network evaluations" if calls else ""
    parts = []
    for side, words in (
        ("below", "clearly below it"),
        ("within", "within twice the spread of it"),
        ("above", "clearly above it"),
    ):
        if groups[side]:
            verb = "lies" if len(groups[side]) == 1 else "lie"
            parts.append(f"{listed([named(line, 'fid') for line in groups[side]])} {verb} {words}")
    text = f"{named(teacher, 'fid')} is the teacher{cost}; in FID {'; '.join(parts)}."
    pixels = ranked(students, "pixel_fid")
    if groups["below"] and pixels and "pixel_fid" in teacher.cells:
        ahead = teacher.cells["pixel_fid"].mean < pixels[0].cells["pixel_fid"].mean
        text += f" In pixel FID the best student, {named(pixels[0], 'pixel_fid')}, lies "
        text += f"{'above' if ahead else 'at or below'} the teacher's {amount(teacher, 'pixel_fid')}."
    distributional = [line for line in students if line.kind != "instance"] or students
    if any(line in groups["below"] for line in distributional):
        yield Finding("holds", text)
    elif all(line in groups["above"] for line in distributional):
        yield Finding("turns", text)
    else:
        yield Finding("open", text)


def _side(line: Line, teacher: Line) -> str:
    if not clearly_apart(line.cells["fid"], teacher.cells["fid"]):
        return "within"
    return "below" if line.cells["fid"].mean < teacher.cells["fid"].mean else "above"
