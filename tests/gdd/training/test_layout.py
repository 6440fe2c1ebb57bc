from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdd.errors import UserError
from gdd.training.layout import lay_out, most_processes


def recipe(batch: int = 256, group: int = 64, instance: str | None = None) -> Any:
    objective = SimpleNamespace(instance=instance)
    return SimpleNamespace(batch=batch, heads=SimpleNamespace(norm_group=group), objective=objective)


@pytest.mark.parametrize(
    ("processes", "span", "piece", "share"),
    [(1, 1, 64, 256), (2, 1, 64, 128), (3, 1, 64, 128), (4, 1, 64, 64), (8, 2, 32, 32), (16, 4, 16, 16)],
)
def test_groups_are_dealt_out_and_only_then_parted(processes: int, span: int, piece: int, share: int) -> None:
    layout = lay_out(recipe(), processes)
    assert (layout.span, layout.piece, layout.share) == (span, piece, share)


@given(st.integers(1, 8), st.sampled_from([1, 4, 6]), st.sampled_from([None, "direct"]))
def test_every_layout_that_is_not_refused_holds_the_batch(
    groups: int, group: int, instance: str | None
) -> None:
    of, possible = recipe(groups * group, group, instance), []
    for processes in range(1, 41):
        try:
            layout = lay_out(of, processes)
        except UserError:
            assert processes > groups
            continue
        possible.append(processes)
        assert layout.span * layout.piece == group
        assert layout.share * processes >= groups * group
        assert layout.share % layout.piece == 0
        assert layout.span == 1 or not instance
    for step in (1, 2):
        most = max((count for count in possible if count % step == 0), default=step)
        assert most_processes(of, 40, step) == most


def test_refusals_say_what_is_possible() -> None:
    sentence = "6 processes cannot share the batch of 4 x 64 images evenly; use at most 4"
    with pytest.raises(UserError, match=f"{sentence}, or 8, 16, 32 ..., each of which"):
        lay_out(recipe(), 6)
    with pytest.raises(UserError, match=f"{sentence} because an instance-based objective needs whole groups"):
        lay_out(recipe(instance="cd"), 6)
    with pytest.raises(UserError, match="96 images at once per device are no multiple of 64"):
        lay_out(recipe(), 1).check(96)
    lay_out(recipe(), 1).check(128)
