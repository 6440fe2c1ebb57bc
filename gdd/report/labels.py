"""Names written beside the ends of lines, which cover no data and need no looking up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gdd.report.style import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE = 0.062  # height of a line of text as a fraction of the axes


@dataclass(frozen=True)
class Label:
    """The name of a line that ends at `value`; `above` is set for one off the scale."""

    text: str
    colour: str
    marker: str
    dash: Any
    value: float
    above: bool | None = None

    @property
    def lines(self) -> int:
        """How many lines of text it takes."""
        return self.text.count("\n") + 1


def write_labels(axes: Axes, labels: Sequence[Label]) -> None:
    """Write the labels right of the axes at the height of their lines, moved apart where they would touch.

    Call it when the limits and the scale of the y axis are final.
    """
    ordered = sorted(labels, key=lambda label: label.value)
    wanted = [_height(axes, label) for label in ordered]
    placed = spread_out(wanted, [label.lines * LINE for label in ordered])
    for label, start, end in zip(ordered, wanted, placed, strict=True):
        # A stub in the line's own look joins the label to the height where the line ends.
        if label.above is None:
            axes.plot(
                [1.01, 1.035, 1.105],
                [start, end, end],
                transform=axes.transAxes,
                color=label.colour,
                linestyle=label.dash,
                linewidth=1.5,
                clip_on=False,
            )
            if label.marker:
                axes.plot(
                    [1.085],
                    [end],
                    transform=axes.transAxes,
                    color=label.colour,
                    marker=label.marker,
                    clip_on=False,
                )
        text = label.text if label.above is None else f"{'↑' if label.above else '↓'} {label.text}"
        axes.annotate(
            text,
            (1.12 if label.above is None else 1.02, end),
            xycoords="axes fraction",
            va="center",
            color=INK,
            fontsize=11,
            linespacing=1.1,
            annotation_clip=False,
        )


def _height(axes: Axes, label: Label) -> float:
    """Return where a value lies as a fraction of the y axis; the edge for one off the scale."""
    if label.above is not None:
        return 1.0 if label.above else 0.0
    height: float = axes.transAxes.inverted().transform(axes.transData.transform((0, label.value)))[1]
    return min(max(height, 0.0), 1.0)


def spread_out(wanted: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Move ascending positions apart so that none of the given sizes overlap, as little as needed.

    Neighbours that touch form a block around the mean of where they wanted to be (as in pool adjacent
    violators), kept within -0.05 and 1.05 where they fit.
    """
    low, high = -0.05, 1.05
    blocks: list[tuple[float, float, list[int]]] = []  # start, size, members
    for index, (position, size) in enumerate(zip(wanted, sizes, strict=True)):
        block = (_inside(position, size, low, high), size, [index])
        while blocks and blocks[-1][0] + blocks[-1][1] > block[0]:
            block = _joined(blocks.pop(), block, low, high)
        blocks.append(block)
    placed = [0.0] * len(sizes)
    for start, _, members in blocks:
        at = start
        for index in members:
            placed[index] = at + sizes[index] / 2
            at += sizes[index]
    return placed


def _joined(
    first: tuple[float, float, list[int]], second: tuple[float, float, list[int]], low: float, high: float
) -> tuple[float, float, list[int]]:
    members = first[2] + second[2]
    centres = (first[0] + first[1] / 2) * len(first[2]) + (second[0] + second[1] / 2) * len(second[2])
    size = first[1] + second[1]
    return _inside(centres / len(members), size, low, high), size, members


def _inside(centre: float, size: float, low: float, high: float) -> float:
    """Return where something starts that is centred there, moved between the bounds if it fits."""
    return max(low, min(centre - size / 2, high - size))
