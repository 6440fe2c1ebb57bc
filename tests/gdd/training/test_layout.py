from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdd.errors import UserError
from gdd.training.layout import lay_out


@pytest.mark.parametrize(
    ("processes", "span", "piece", "share"),
    [(1, 1, 64, 256), (2, 1, 64, 128), (3, 1, 64, 128), (4, 1, 64, 64), (8, 2, 32, 32), (16, 4, 16, 16)],
)
def test_groups_are_dealt_out_and_only_then_parted(processes: int, span: int, piece: int, share: int) -> None:
    layout = lay_out(256, 64, processes)
    assert (layout.span, layout.piece, layout.share) == (span, piece, share)


@given(st.integers(1, 8), st.sampled_from([1, 4, 6]), st.integers(1, 40))
def test_every_layout_that_is_not_refused_holds_the_batch(groups: int, group: int, processes: int) -> None:
    try:
        layout = lay_out(groups * group, group, processes)
    except UserError:
        assert processes > groups
        return
    assert layout.span * layout.piece == group
    assert layout.share * processes >= groups * group
    assert layout.share % layout.piece == 0


def test_refusals_say_what_is_possible() -> None:
    with pytest.raises(
        UserError, match=r"6 processes cannot share the batch of 4 x 64 .* use at most 4, or 8, 16"
    ):
        lay_out(256, 64, 6)
    with pytest.raises(UserError, match="96 images at once per device are no multiple of 64"):
        lay_out(256, 64, 1).check(96)
    lay_out(256, 64, 1).check(128)
