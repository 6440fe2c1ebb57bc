"""Being asked to stop: by a signal, or by a file that appears."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any, Self

STOPPED = 75  # the exit status of a run that was asked to stop and can be resumed (EX_TEMPFAIL)
STOP_FILE_VARIABLE = "GDD_STOP_FILE"
SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """A run wrote its checkpoint because it was asked to stop; the same command resumes it."""


class StopRequest:
    """While entered, SIGUSR2, SIGTERM and the first Ctrl-C ask for a stop instead of ending the process.

    So does the file named in the environment variable GDD_STOP_FILE, once it exists.
    """

    def __init__(self) -> None:
        self._signalled = False
        self._file = os.environ.get(STOP_FILE_VARIABLE)
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self._signalled:
            raise KeyboardInterrupt  # a second Ctrl-C means now
        self._signalled = True

    @property
    def requested(self) -> bool:
        """Whether somebody asked for a stop."""
        return self._signalled or (self._file is not None and Path(self._file).exists())
