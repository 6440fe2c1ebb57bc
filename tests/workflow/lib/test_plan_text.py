"""How a plan is written."""

from __future__ import annotations

import pytest

from workflow.lib.plan_text import duration


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (None, "0 s"),
        (5 / 3600, "5 s"),
        (59.6 / 3600, "1 min"),
        (0.4, "24 min"),
        (0.99, "59 min"),
        (0.992, "0.992 h"),
        (1, "1 h"),
        (11.97, "12 h"),
        (1234, "1,234 h"),
    ],
)
def test_times_have_the_unit_of_their_size(hours: float | None, text: str) -> None:
    assert duration(hours) == text
