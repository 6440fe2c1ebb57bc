"""What has to be said beside any comparison: blind spots, seeds, the floor, copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gdd.config.load import Config
from gdd.report.comparison import Finding, amount, listed, named
from gdd.report.runs import design
from gdd.report.table import Line, Table

FAR_FROM_COPIES = 0.8  # of the distance between real images
COPIES = 0.5
FEW_RUNS = 3


def caveats(tables: Sequence[Table], config: Config) -> Iterator[Finding]:
    """Yield what holds for all tables together, setting by setting."""
    lines: dict[tuple[str, str | int | None], Line] = {}
    floors: dict[str, Line] = {}
    titles: dict[str, str] = {}
    for table in tables:
        titles |= table.settings
        for line in table.lines:
            # The same recipe may stand in several tables; it is spoken of once, where it has the most runs.
            key = (line.setting, line.run or line.teacher_steps or line.title)
            if key not in lines or len(line.runs) > len(lines[key].runs):
                lines[key] = line
        for floor in table.floors:
            floors.setdefault(floor.setting, floor)
    for setting, title in titles.items():
        inside = [line for line in lines.values() if line.setting == setting]
        students = [line for line in inside if line.trained]
        found = [
            *_blind_spot(setting, students, config),
            *_floor(inside, floors.get(setting)),
            *_copies(students),
            *_runs(students),
        ]
        for finding in found:
            yield finding if len(titles) == 1 else Finding(finding.kind, f"{title}: {finding.text}")


def _blind_spot(setting: str, students: Sequence[Line], config: Config) -> Iterator[Finding]:
    record = config.settings[setting]
    judge = record.evaluation.extractor
    source = config.datasets[record.dataset].source

    def learned(name: str) -> bool:
        network = config.features.get(name)
        return network is not None and network.steps > 0 and config.datasets[network.dataset].source == source

    seen = {
        name
        for line in students
        if line.kind in ("distributional", "both")
        for name in line.recipe["backbones"]
    }
    shared = sorted(name for name in seen if learned(name))
    if shared and learned(judge):
        pixels = any("pixel_fid" in line.cells for line in students)
        remedy = " Distances in raw pixels do not share that blind spot, so read them beside the others."
        yield Finding(
            "open",
            f"The discriminator looks through a classifier of these images ({listed(shared)}), and the judge "
            f"of FID, precision and recall is a classifier of the same images ({judge}). What classifiers of "
            f"this data overlook, both overlook, which favours a distributional loss."
            f"{remedy if pixels else ''}",
        )


def _floor(lines: Sequence[Line], floor: Line | None) -> Iterator[Finding]:
    limit = floor.value("fid") if floor else None
    measured = [line for line in lines if "fid" in line.cells]
    if floor is None or limit is None or not measured:
        return
    low = [line for line in measured if line.cells["fid"].mean <= 2 * limit]
    text = (
        f"Real images against other real images have an FID of {amount(floor, 'fid')}, the floor: one half "
        "of the data set against the other, fewer images than in the other comparisons, which raises it. "
    )
    if low:
        verb = "lies" if len(low) == 1 else "lie"
        text += (
            f"{listed([named(line, 'fid') for line in low])} {verb} at or below twice that, "
            "where the number says little about quality."
        )
        yield Finding("open", text)
    else:
        yield Finding("holds", text + "Every model lies above twice that, so the floor hides no difference.")


def _copies(students: Sequence[Line]) -> Iterator[Finding]:
    measured = sorted(
        (line for line in students if "nearest" in line.cells), key=lambda line: line.cells["nearest"].mean
    )
    if not measured:
        return
    low, high = amount(measured[0], "nearest"), amount(measured[-1], "nearest")
    close = [line for line in measured if line.cells["nearest"].mean < FAR_FROM_COPIES]
    if not close:
        span = low if low == high else f"{low} to {high}"
        yield Finding(
            "holds",
            "No sign of copies among the students: the median distance of their images to the nearest "
            f"training image is {span} of that between real images (1 = as far as real, near 0 = copies).",
        )
        return
    copies = [line for line in close if line.cells["nearest"].mean < COPIES]
    what = (
        "copies of training images" if copies else "closer to training images than fresh real images would be"
    )
    yield Finding(
        "turns" if copies else "open",
        f"Images of {listed([named(line, 'nearest') for line in copies or close])} are in the median {what} "
        "(distance to the nearest training image; 1 = as far as real, near 0 = copies).",
    )


def _runs(students: Sequence[Line]) -> Iterator[Finding]:
    single = [line for line in students if len(line.runs) == 1]
    several = [line for line in students if len(line.runs) > 1]
    if single:
        whom = "" if not several else f" ({listed([line.title for line in single])})"
        yield Finding(
            "open",
            f"One training seed proves nothing about the method{whom}: the spreads say how a number varies "
            "with the latents, not how it would vary if the training were repeated.",
        )
    designs: dict[str, list[Line]] = {}
    for line in several:
        designs.setdefault(design(line.keys), []).append(line)
    for words, lines in designs.items():
        parts = [
            f"{cell.training_std:.2f} ({line.title})"
            for line in lines
            if (cell := line.cells.get("fid")) is not None and cell.training_std is not None
        ]
        if not parts:
            continue
        count = min(len(line.runs) for line in lines)
        text = (
            f"Training was repeated, {count} runs per row ({words}): the training spread of FID, their "
            f"standard deviation, is {listed(parts)}."
        )
        if count < FEW_RUNS:
            text += f" A standard deviation from {count} runs is itself only a rough guess."
        yield Finding("open" if count < FEW_RUNS else "holds", text)
