"""What is measured of a run while it goes on, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

# Is asked now and then whether to give up, because somebody wants the run to stop. Returns numbers by name,
# None where it gave up.
Measure = Callable[[Callable[[], bool]], dict[str, float] | None]


class Monitor(NamedTuple):
    """Measures after every so many images, at the first step boundary there, and at the end."""

    every: int
    measure: Measure | None  # the main process's; the others wait, as long as it takes

    def due(self, before: int, now: int, total: int) -> bool:
        """Return whether the step from `before` to `now` images is one to measure after."""
        return before // self.every < now // self.every or before < total <= now
