"""How often the queue is looked at."""

from __future__ import annotations

import time

SOONEST = 1.0  # seconds between two looks while jobs come and go
LONGEST = 120.0  # seconds between two looks at a queue that is slow to answer


class Pace:
    """A second between two looks while jobs come and go, longer and longer when nothing happens."""

    def __init__(self, longest: float) -> None:
        """Pause for at most `longest` seconds, unless the queue itself is slow."""
        self._longest = longest
        self._changed = time.monotonic()

    def changed(self) -> None:
        """Note that a job came or went."""
        self._changed = time.monotonic()

    def pause(self, answer_took: float) -> float:
        """Return how many seconds to wait, given what the last answer took.

        A queue that is slow to answer is asked less often: at most a tenth of the time. One that does not
        answer says nothing about that, and its return shall not go unnoticed for minutes.
        """
        quiet = time.monotonic() - self._changed
        return max(min(self._longest, max(SOONEST, quiet / 10)), min(10 * answer_took, LONGEST))
