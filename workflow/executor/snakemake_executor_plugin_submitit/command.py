"""What a job does on its node: run the rule, see to it that it stops in time, and ask to be started again."""

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
MARGIN = 15.0  # seconds between the last moment for stopping and the time limit
LATE = 1 << 16  # bytes of the log's end that are looked through

# Snakemake's words about a rule's command that ended with EX_TEMPFAIL: "saved, run me again".
_TEMPFAIL = re.compile(rb"non-zero exit (?:status|code):? 75\b")
_SIGNALS = {signal.SIGUSR2, signal.SIGTERM, signal.SIGCHLD}


class CommandFailed(Exception):
    """The job failed, for the reason given; no use in starting it again."""


@dataclass
class Command:
    """A shell command that is asked to stop before its time limit and goes on after it.

    Being asked means: SIGUSR2 to every process below that handles it, and a file that appears, named in the
    environment variables SUBMITIT_STOP_FILE and `stop_variables`. A command that ends then (with whatever status but 0)
    is started again under the same job id; so is one that ends with status 75 by itself.
    """

    shell: str
    name: str  # the rule, for messages
    stop_seconds: int = 120
    stop_variables: tuple[str, ...] = ()
    progress: str | None = None
    stalled_restarts: int = 5
    requeue: bool = True
    minutes: int | None = None
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

        log = paths.stdout
        read_from = log.stat().st_size if log.exists() else 0
        environment = {
            **os.environ,
            **dict.fromkeys((STOP_FILE_VARIABLE, *self.stop_variables), str(stop_file)),
        }
        environment.update({key: value for key, value in self.environment.items() if value is not None})
        for key in [key for key, value in self.environment.items() if value is None]:
            environment.pop(key, None)
        child = subprocess.Popen(["bash", "-c", self.shell], env=environment)
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
                    raise CommandFailed(
                        f"it ran into its time limit of {self.minutes} minutes and did not stop when asked to. Raise "
                        f"its 'runtime', for example by --set-resources {self.name}:runtime={2 * (self.minutes or 60)}"
                    )
            self._run_again(job, restarts, "the time limit is near")
        if _ended_with_75(log, read_from):
            self._run_again(job, restarts, "it ended with status 75")
        raise CommandFailed(f"its command ended with status {status}")

    def checkpoint(self) -> DelayedSubmission:
        """Tell submitit, in the instant before this class handles signals itself, to start the job again."""
        return DelayedSubmission(self)

    def _wait(self, child: subprocess.Popen[bytes], stop_file: Path) -> signal.Signals | None:
        """Wait until `child` ends or has to be ended; return the signal that asked for a stop, if one did."""
        if threading.current_thread() is not threading.main_thread():  # submitit's cluster "debug"
            child.wait()
            return None
        # Signals are waited for instead of handled: a handler that waits for the child would be waiting inside
        # this function's own wait for it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        asked: signal.Signals | None = None
        deadline = float("inf")
        try:
            while child.poll() is None and time.monotonic() < deadline:
                got = signal.sigtimedwait(_SIGNALS, min(10.0, max(0.05, deadline - time.monotonic())))
                if got is None or got.si_signo == signal.SIGCHLD:
                    continue
                _say(f"got {signal.Signals(got.si_signo).name}: asking {self.name} to stop")
                if got.si_signo == signal.SIGTERM or asked is None:
                    asked = signal.Signals(got.si_signo)
                if asked == signal.SIGUSR2:
                    deadline = time.monotonic() + self._time_to_stop()
                stop_file.touch()
                below = processes.descendants(os.getpid())
                processes.send(
                    [pid for pid in below if processes.handles(pid, signal.SIGUSR2)], signal.SIGUSR2
                )
        finally:
            if asked is None:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return asked

    def _time_to_stop(self) -> float:
        """Return how many seconds the command may take to stop; SLURM sends its signal up to a minute early."""
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
        sys.exit(1)  # no result: submitit's exit from a job that will run again

    def _be_ended(self, job: JobEnvironment, restarts: Restarts) -> None:
        """After SIGTERM: SLURM is ending this job, for good or to start it again, or somebody else is."""
        while processes.descendants(os.getpid()):
            time.sleep(0.1)  # a trainer that writes its checkpoint; SLURM's SIGKILL bounds this
        if scheduler.still_wanted(job):
            self._run_again(job, restarts, "it was told to end, but not by SLURM")
        sys.exit(128 + signal.SIGTERM)

    def _kill(self, child: subprocess.Popen[bytes]) -> None:
        processes.send(processes.descendants(os.getpid()), signal.SIGKILL)
        child.wait()

    def _given_up(self, restarts: Restarts) -> str:
        times = f"it was started {restarts.starts} times, the last {restarts.stalled} without any progress"
        if self.progress:
            return f"{times}: nothing new in {self.progress}"
        return f"{times} that could be seen; name what shows it in the rule's resource 'progress'"


def _ended_with_75(log: Path, read_from: int) -> bool:
    try:
        with log.open("rb") as file:
            file.seek(max(read_from, log.stat().st_size - LATE))
            return _TEMPFAIL.search(file.read()) is not None
    except OSError:
        return False


def _say(words: str) -> None:
    print(f"snakemake-executor-plugin-submitit: {words}", flush=True)
