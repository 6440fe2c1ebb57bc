"""The time a run takes, over all its starts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Counts seconds on from `seconds`, but for what happens inside `paused`."""

    def __init__(self, seconds: float) -> None:
        self._began = time.monotonic() - seconds
        self._paused_at: float | None = None

    @property
    def seconds(self) -> float:
        """Training time in seconds, over all starts."""
        now = time.monotonic() if self._paused_at is None else self._paused_at
        return now - self._began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time spent inside: measuring is no training."""
        self._paused_at = time.monotonic()
        try:
            yield
        finally:
            self._began += time.monotonic() - self._paused_at
            self._paused_at = None
