"""What goes wrong through bad input, as opposed to a defect of this program."""

from __future__ import annotations


class UserError(Exception):
    """One sentence a person can act on: what is wrong, where, and what to do.

    The command line prints the sentence without a traceback and exits with status 2.
    """


class DivergedError(UserError):
    """A network gives NaN or infinity: in its images, or in its losses for long."""


class ProcessLost(Exception):
    """Another process of the run does not answer; the run ends, and the same command resumes it."""
