"""From a URL to a verified file: attempts, waiting, checking, naming."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import requests

from gdd.errors import UserError
from gdd.fetch.checksums import Expected, Measured, difference, measure, page_instead
from gdd.fetch.exclusive import exclusive
from gdd.fetch.part import Part
from gdd.fetch.progress import Progress
from gdd.fetch.transfer import Interrupted, WrongBytes, copy, receive

PROGRESS = 1 << 20  # bytes after which an attempt counts as a success, and patience begins anew


@dataclass(frozen=True)
class Patience:
    """How often to try, and how long to wait."""

    attempts: int = 6  # in a row that bring next to nothing
    first_wait: float = 1.0  # seconds; doubled each time
    longest_wait: float = 60.0
    longest_asked: float = 600.0  # by the server (Retry-After)
    connect: float = 20.0
    silence: float = 60.0  # between two bytes
    sleep: Callable[[float], None] = time.sleep

    def wait(self, failures: int, asked: float | None) -> float:
        """Return the seconds to wait after so many failures; a little chance keeps many clients apart."""
        if asked is not None:
            return min(asked, self.longest_asked)
        return min(self.first_wait * 2 ** (failures - 1), self.longest_wait) * random.uniform(0.5, 1.0)


class Unreachable(UserError):
    """A server that never answered."""


@dataclass(frozen=True)
class Downloader:
    """Gets one file after the other."""

    session: requests.Session
    progress: Progress
    patience: Patience

    def get(
        self, place: str | Path, final: Path, expected: Expected, accept: Callable[[Measured, int], None]
    ) -> None:
        """Get `final` from a URL or a local path; it gets its name when its bytes have been verified.

        `accept(measured, mtime_ns)` is called just before that. If another process is at the same file,
        wait for it, and leave what it made as it is.

        Raises:
            UserError: it cannot be had, or is not what was expected. What has come so far stays in
                `<final>.part`, except wrong bytes, which are removed.
        """

        def waiting() -> None:
            self.progress.say(f"{final}: another process is fetching it; waiting.")

        path = final.with_name(f"{final.name}.part")
        with exclusive(path, waiting) as handle:
            part = Part(path, handle)
            try:
                if final.exists():
                    part.clear()
                    return
                measured = self._get_right(place, part, expected)
                accept(measured, path.stat().st_mtime_ns)
                part.become(final)
            finally:
                if path.exists() and not part.size:
                    part.remove()

    def _get_right(self, place: str | Path, part: Part, expected: Expected) -> Measured:
        """Get the bytes and verify them; wrong ones may have been damaged on the way, so they come twice."""
        chances = 2
        while True:
            try:
                if isinstance(place, Path):
                    copy(place, part, self.progress)
                else:
                    self._get_all(place, part, expected)
                return _verified(part, expected)
            except WrongBytes as wrong:
                part.clear()
                chances -= 1
                if not chances:
                    raise UserError(_refusal(place, str(wrong), expected)) from None
                self.progress.say(f"{place}: {wrong}; once more from the start.")

    def _get_all(self, url: str, part: Part, expected: Expected) -> None:
        """Try until all bytes are there or patience is at its end."""
        failures, most, answered = 0, part.size, False
        timeout = (self.patience.connect, self.patience.silence)
        while True:
            try:
                receive(self.session, url, part, expected, self.progress, timeout)
                return
            except Interrupted as interrupted:
                answered = answered or interrupted.answered
                # Against the most there ever was: a server that cannot resume may bring the same for ever.
                if part.size >= most + PROGRESS:
                    failures = 0
                most = max(most, part.size)
                failures += 1
                if failures >= self.patience.attempts:
                    kind = UserError if answered or part.size else Unreachable
                    kept = f" ({part.size:,} bytes are kept)" if part.size else ""
                    raise kind(
                        f"{interrupted}, {failures} times in a row; try again later{kept}, or name a mirror "
                        "in config/local.yaml."
                    ) from None
                seconds = self.patience.wait(failures, interrupted.after)
                self.progress.say(f"{interrupted}; attempt {failures + 1} in {seconds:.0f} s.")
                self.patience.sleep(seconds)


def _verified(part: Part, expected: Expected) -> Measured:
    measured = measure(part.path, expected.checksum)
    problem = difference(measured, expected) or page_instead(part.path)
    if problem:
        raise WrongBytes(problem)
    return measured


def _refusal(place: str | Path, problem: str, expected: Expected) -> str:
    sentence = f"{place} is not the expected file, twice, and was removed: {problem}"
    if expected.pinned and not expected.checksum:
        return (
            f"{sentence}, which is what was fetched first; if the publisher has replaced the file and you "
            "trust the new one, delete its lines in lock.yaml and fetch again."
        )
    return (
        f"{sentence}; if the publisher has replaced the file, correct config/sources.yaml, else try a mirror."
    )
