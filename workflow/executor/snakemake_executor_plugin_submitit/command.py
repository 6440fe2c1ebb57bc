"""What a job does on its node: run the rule, see to it that it stops in time, ask to be started again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from submitit.core.job_environment import JobEnvironment
from submitit.core.utils import DelayedSubmission

from snakemake_executor_plugin_submitit import processes, scheduler
from snakemake_executor_plugin_submitit.progress import Restarts, mark

STOP_FILE_VARIABLE = "SUBMITIT_STOP_FILE"
TRY_AGAIN = 75  # EX_TEMPFAIL: a rule's command saved its state and wants to be run again
MARGIN = 15.0  # seconds between the last moment for stopping and the time limit
LATE = 1 << 16  # bytes of the log's end that are looked through

# What Snakemake, which itself always ends with 1, says about a rule's command.
_STATUS = re.compile(rb"returned non-zero exit status (\d+)\.")
_SIGNALS = {signal.SIGUSR2, signal.SIGTERM, signal.SIGCHLD}


class CommandFailed(Exception):
    """The job failed, for the reason given; no use in starting it again."""


@dataclass
class Command:
    """A shell command that is asked to stop before its time limit and goes on after it.

    Being asked means: SIGUSR2 to every process below that handles it, and a file that appears, named in the
    environment variables SUBMITIT_STOP_FILE and `stop_variables`. A command that ends then, with whatever
    status but 0, is started again under the same job id; so is one that ends with status 75 by itself.
    """

    shell: str
    name: str  # the rule, for messages
    stop_seconds: int = 120  # from the signal to the time limit, at least
    stop_variables: tuple[str, ...] = ()
    progress: str | None = None  # a file or folder that shows how far the command got
    stalled_restarts: int = 5  # so many in a row are too many; 0: never
    requeue: bool = True
    minutes: int | None = None  # the time limit
    environment: Mapping[str, str | None] = field(default_factory=dict)  # None: unset

    def __call__(self) -> str:
        """Run and return 'done'.

        Raises:
            CommandFailed: with the reason.
            SystemExit: the job is to run again, so it has no result yet.
        """
        job = JobEnvironment()
        paths = job.paths
        base = paths.folder / job.job_id
        paths.result_pickle.unlink(missing_ok=True)  # of a start before this one
        stop_file = Path(f"{base}_stop")
        stop_file.unlink(missing_ok=True)
        restarts = Restarts.read(Path(f"{base}_restarts.json"))
        restarts.start(mark(self.progress))
        if self.stalled_restarts and restarts.stalled >= self.stalled_restarts:
            raise CommandFailed(self._given_up(restarts))

        log = Path(paths.stdout)
        read_from = log.stat().st_size if log.exists() else 0
        child = subprocess.Popen(["bash", "-c", self.shell], env=self._environment(stop_file))
        asked = self._wait(child, stop_file)
        status = child.poll()

        if status == 0:
            return "done"
        if asked == signal.SIGTERM:
            self._be_ended(job, restarts)
        if asked == signal.SIGUSR2:
            if status is None:
                self._kill(child)
                if mark(self.progress) == restarts.seen:
                    raise CommandFailed(self._too_slow())
            self._run_again(job, restarts, "the time limit is near")
        status = _status_of_rule(log, read_from) or status
        if status == TRY_AGAIN:
            self._run_again(job, restarts, f"it ended with status {TRY_AGAIN}")
        raise CommandFailed(f"its command ended with status {status}")

    def checkpoint(self) -> DelayedSubmission:
        """Tell submitit, in the instant before this class looks at signals itself, to start the job again."""
        return DelayedSubmission(self)

    def _environment(self, stop_file: Path) -> dict[str, str]:
        names = (STOP_FILE_VARIABLE, *self.stop_variables)
        merged = {**os.environ, **dict.fromkeys(names, str(stop_file)), **self.environment}
        return {name: value for name, value in merged.items() if value is not None}

    def _wait(self, child: subprocess.Popen[bytes], stop_file: Path) -> signal.Signals | None:
        """Wait until `child` ends or its time is up; return the signal that asked for a stop, if one did."""
        if threading.current_thread() is not threading.main_thread():  # the cluster "debug"
            child.wait()
            return None
        # Signals are waited for instead of handled: a handler that waits for the child would do so inside
        # this function's own wait for it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        asked: signal.Signals | None = None
        deadline = float("inf")
        while child.poll() is None and time.monotonic() < deadline:
            got = signal.sigtimedwait(_SIGNALS, min(10.0, max(0.05, deadline - time.monotonic())))
            if got is None or got.si_signo == signal.SIGCHLD:
                continue
            number = signal.Signals(got.si_signo)
            _say(f"got {number.name}: asking {self.name} to stop")
            if number == signal.SIGTERM or asked is None:
                asked = number
            if asked == signal.SIGUSR2:
                deadline = time.monotonic() + self._time_to_stop()
            stop_file.touch()
            below = processes.descendants(os.getpid())
            processes.send([pid for pid in below if processes.handles(pid, signal.SIGUSR2)], signal.SIGUSR2)
        return asked

    def _time_to_stop(self) -> float:
        """Return how many seconds the command may take to stop; SLURM asks up to a minute early."""
        left = max(5.0, self.stop_seconds - MARGIN)
        if self.minutes is None:
            return left
        return max(left, 60 * self.minutes - processes.age() - MARGIN)

    def _run_again(self, job: JobEnvironment, restarts: Restarts, why: str) -> None:
        if not self.requeue:
            raise CommandFailed(f"{why}, and --submitit-no-requeue forbids to start it again")
        restarts.requeued = why
        restarts.write()
        _say(f"{why}; {self.name} goes on in this job's next start (start {restarts.starts} ended)")
        scheduler.requeue(job)
        sys.exit(1)  # without a result: the job will run again

    def _be_ended(self, job: JobEnvironment, restarts: Restarts) -> None:
        """After SIGTERM: SLURM is ending this job, for good or to start it again, or somebody else is."""
        while processes.descendants(os.getpid()):
            time.sleep(0.1)  # a command that writes its state; SLURM's SIGKILL bounds this
        if scheduler.still_wanted(job):
            self._run_again(job, restarts, "it was told to end, but not by SLURM")
        sys.exit(128 + signal.SIGTERM)

    def _kill(self, child: subprocess.Popen[bytes]) -> None:
        processes.send(processes.descendants(os.getpid()), signal.SIGKILL)
        child.wait()

    def _too_slow(self) -> str:
        limit = f"of {self.minutes} minutes " if self.minutes else ""
        return (
            f"it ran into its time limit {limit}and did not stop when asked to. Raise its 'runtime', "
            f"for example by --set-resources {self.name}:runtime={2 * (self.minutes or 60)}"
        )

    def _given_up(self, restarts: Restarts) -> str:
        times = f"it was started {restarts.starts} times, the last {restarts.stalled} without any progress"
        if self.progress:
            return f"{times}: nothing new in {self.progress}"
        return f"{times} that could be seen; name what shows it in the rule's resource 'progress'"


def _status_of_rule(log: Path, read_from: int) -> int | None:
    try:
        with log.open("rb") as file:
            file.seek(max(read_from, log.stat().st_size - LATE))
            found = _STATUS.findall(file.read())
    except OSError:
        return None
    return int(found[-1]) if found else None


def _say(words: str) -> None:
    print(f"snakemake-executor-plugin-submitit: {words}", flush=True)
