"""The state of all jobs in one question to SLURM."""

from __future__ import annotations

import getpass
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

PATIENCE = 60.0  # seconds after which a question that is not answered counts as failed
GRACE = 5.0  # seconds for an answer that nobody waits for any more, but the cancelling

ENDED = frozenset(
    [
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "ENDED",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    ]
)


@dataclass(frozen=True)
class Seen:
    """A job as SLURM describes it."""

    state: str
    reason: str = ""  # why it waits, or what ended it
    nodes: str = ""
    comment: str = ""

    @property
    def ending(self) -> bool:
        """Whether it has ended or is about to."""
        return self.ended or self.state == "COMPLETING"

    @property
    def ended(self) -> bool:
        """Whether SLURM is done with it, unless somebody requeues it."""
        return self.state in ENDED


class Queue:
    """Asks squeue about every job at once, and sacct about those that squeue forgot."""

    def __init__(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Ask until `stopping` says that nobody waits for the answer any more."""
        self._stopping = stopping
        self._no_accounting = False
        self.polls = 0
        self.seconds = 0.0  # that the last question took to be answered
        self.trouble = ""  # what the last failed question's answer was

    def look(self) -> dict[str, Seen] | None:
        """Return all jobs of this user that squeue knows, for MinJobAge also ended ones; None if it fails."""
        command = [
            "squeue",
            "--noheader",
            "--array",
            "--states=all",
            f"--user={getpass.getuser()}",
            "--format=%i|%T|%N|%r|%k",
        ]
        started = time.monotonic()
        answer = self._ask(command)
        self.polls += 1
        if answer is None:
            return None
        self.seconds = time.monotonic() - started
        return parse_squeue(answer)

    def remembered(self, job_ids: Sequence[str]) -> dict[str, Seen]:
        """Return what the accounting, if there is any, says about `job_ids`."""
        if self._no_accounting or not job_ids:
            return {}
        arrays = sorted({job_id.split("_")[0] for job_id in job_ids})
        command = ["sacct", "-X", "-n", "-P", "--array", "-o", "JobID,State,NodeList", "-j", ",".join(arrays)]
        answer = self._ask(command)
        if answer is None:
            self._no_accounting = "disabled" in self.trouble
            return {}
        return parse_sacct(answer)

    def _ask(self, command: Sequence[str]) -> str | None:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C is for Snakemake
            )
        except OSError as error:
            self.trouble = str(error)
            return None
        started = time.monotonic()
        give_up = started + PATIENCE
        while True:
            try:
                answer, complaint = process.communicate(timeout=0.5)
            except subprocess.TimeoutExpired:
                if time.monotonic() < give_up and not (
                    self._stopping() and time.monotonic() > started + GRACE
                ):
                    continue
                process.kill()
                process.communicate()
                self.trouble = f"{command[0]} did not answer within {PATIENCE:.0f} seconds"
                return None
            if process.returncode:
                self.trouble = complaint.strip() or f"{command[0]} ended with status {process.returncode}"
                return None
            return answer


def parse_squeue(text: str) -> dict[str, Seen]:
    """Read lines of `%i|%T|%N|%r|%k`."""
    found: dict[str, Seen] = {}
    for line in text.splitlines():
        fields = line.strip().split("|", 4)
        if len(fields) == 5:
            job_id, state, nodes, reason, comment = fields
            found[job_id] = Seen(state, "" if reason == "None" else reason, nodes, comment)
    return found


def parse_sacct(text: str) -> dict[str, Seen]:
    """Read lines of `JobID|State|NodeList`; the state may be 'CANCELLED by 1000'."""
    found: dict[str, Seen] = {}
    for line in text.splitlines():
        fields = line.strip().split("|")
        if len(fields) == 3 and fields[1]:
            state, _, rest = fields[1].partition(" ")
            found[fields[0]] = Seen(state, rest, "" if fields[2].startswith("None") else fields[2])
    return found


def cancel(job_ids: Iterable[str], whole_arrays: Iterable[str] = ()) -> None:
    """End jobs, `whole_arrays` by their array's id alone: one call ends thousands."""
    words = sorted(set(whole_arrays)) + [one for one in job_ids if one.split("_")[0] not in set(whole_arrays)]
    for start in range(0, len(words), 500):
        subprocess.run(
            ["scancel", "--quiet", *words[start : start + 500]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            start_new_session=True,
        )
