"""How a command ends other than by success or by a defect of this program."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

STOPPED = 75  # the exit status of a run that can be resumed (EX_TEMPFAIL)


class UserError(Exception):
    """One sentence a person can act on: what is wrong, where, and what to do.

    The command line prints the sentence without a traceback and exits with status 2. Names in others' files
    may have characters that move a terminal's cursor; they are escaped.
    """

    def __init__(self, sentence: str) -> None:
        escaped = (char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in sentence)
        super().__init__("".join(escaped))


def shown(text: str) -> str:
    """Return a URL, or a sentence with URLs, without user names and passwords."""
    # Up to an @ before the path; or, where what seems a port is none, up to one behind the password's `/`.
    return re.sub(r"//(?:[^/\s]*|[^/\s:]*:[^/\s]*[^/\s\d]\S*?)@", "//", text)


def in_a_line(error: BaseException) -> str:
    """Return what a library says of a file as part of a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(":")


class DivergedError(UserError):
    """A network gives NaN or infinity: in its images, or in its losses for long."""


class ProcessLost(Exception):
    """Another process of the run does not answer; the run ends, and the same command resumes it."""


class Stopped(Exception):
    """A run wrote its checkpoint because it was asked to stop; the same command resumes it."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'? ` for the known name that is like `name`, or nothing if none is."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean '{near[0]}'? " if near else ""
