"""What a job does on its node: run the rule, see to it that it stops in time, ask to be started again.

    python -m snakemake_executor_plugin_submitit.node FOLDER [TOKEN]

is submitit's worker without its import of NumPy: the command lies in a pickle in FOLDER, and so will its
result.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast

import psutil
from submitit.core.job_environment import JobEnvironment
from submitit.core.utils import DelayedSubmission

from snakemake_executor_plugin_submitit.progress import (
    Restarts,
    ask,
    descendants,
    handles,
    log_end,
    mark,
    pickled,
    say,
    send,
    write,
)

STOP_FILE_VARIABLE = "SUBMITIT_STOP_FILE"
LOCAL_REQUEUE_RETURN_CODE = 144  # submitit.local.local's
TRY_AGAIN = 75  # EX_TEMPFAIL: a rule's command saved its state and wants to be run again
MARGIN = 15.0  # seconds between the last moment for stopping and the time limit
LATE = 1 << 16  # bytes of the log's end that are looked through
SETTLED = 10.0  # seconds after which SLURM would have marked a job that it is ending
COMPLAINT = " !! "  # what comes after it in a job's comment was added by its node

# What Snakemake, which itself always ends with 1, says about a rule's command.
_STATUS = re.compile(r"returned non-zero exit status (\d+)\.|died with <Signals\.(\w+)")
_SIGNALS = {signal.SIGUSR2, signal.SIGTERM, signal.SIGCHLD}
_early: list[int] = []  # signals that came before the command was started
FAILED = "CommandFailed: "  # begins a result that says why a command failed


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
    label: str = ""  # rule and wildcards, the job's name in SLURM
    stop_seconds: int = 120  # from the signal to the time limit, at least
    stop_variables: tuple[str, ...] = ()
    progress: str = ""  # a file or folder that shows how far the command got
    stalled_restarts: int = 5  # so many in a row are too many; 0: never
    requeue: bool = True
    minutes: int | None = None  # the time limit

    def __call__(self) -> dict[str, float]:
        """Run and return what was used.

        Raises:
            CommandFailed: with the reason.
            SystemExit: the job is to run again, so it has no result yet.
        """
        job = JobEnvironment()
        paths = job.paths
        paths.result_pickle.unlink(missing_ok=True)  # of a start before this one
        stop_file, note = (paths.folder / f"{job.job_id}_{name}" for name in ("stop", "restarts.json"))
        stop_file.unlink(missing_ok=True)
        restarts = Restarts.read(note)
        restarts.start(mark(self.progress))
        try:
            restarts.write(note)
        except OSError as error:
            complain(job, f"the disk of {paths.folder} is full, the job runs all the same ({error})")
        if self.stalled_restarts and restarts.stalled >= self.stalled_restarts:
            raise CommandFailed(self._given_up(restarts))

        log = Path(paths.stdout)
        read_from = log.stat().st_size if log.exists() else 0
        names = (STOP_FILE_VARIABLE, *self.stop_variables)
        environment = {**os.environ, **dict.fromkeys(names, str(stop_file))}
        child = subprocess.Popen(["bash", "-c", self.shell], env=environment)
        if job.cluster == "debug":  # inside Snakemake, whose signals are its own
            child.wait()
        asked = self._wait(child, stop_file, restarts)
        status = child.poll()
        restarts.account()
        with contextlib.suppress(OSError):
            restarts.write(note)

        if status == 0:
            return restarts.used
        if asked == signal.SIGTERM:
            self._be_ended(job)
            again = "it was told to end, but not by SLURM"
        elif asked == signal.SIGUSR2:
            again = "the time limit is near"
            if status is None:
                send(descendants(), signal.SIGKILL)
                child.wait()
                if mark(self.progress) == restarts.seen:
                    raise CommandFailed(self._too_slow())
        else:
            for number, killer in _STATUS.findall(log_end(log, LATE, read_from))[-1:]:
                status = int(number) if number else 128 + signal.Signals[killer]
            if status != TRY_AGAIN:
                raise CommandFailed(f"its command ended with status {status}{_killer(status)}")
            again = f"it ended with status {TRY_AGAIN}"
        if not self.requeue:
            raise CommandFailed(f"{again}, and --submitit-no-requeue forbids to start it again")
        restarts.requeued = again
        with contextlib.suppress(OSError):
            restarts.write(note)
        say(f"{again}; {self.name} goes on in this job's next start (start {restarts.starts} ended)")
        return _run_again(job)

    def _wait(
        self, child: subprocess.Popen[bytes], stop_file: Path, restarts: Restarts
    ) -> signal.Signals | None:
        """Wait until `child` ends or its time is up; return the signal that asked for a stop, if one did.

        Signals are waited for instead of handled: a handler that waits for the child would do so inside this
        function's own wait for it.
        """
        if child.poll() is None:
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        asked: signal.Signals | None = None
        deadline = float("inf")
        while child.poll() is None and time.monotonic() < deadline:
            if _early:
                number = signal.Signals(_early.pop())
            elif got := signal.sigtimedwait(_SIGNALS, min(10.0, max(0.05, deadline - time.monotonic()))):
                number = signal.Signals(got.si_signo)
            else:
                restarts.measure()
                continue
            if number == signal.SIGCHLD:
                continue
            say(f"got {number.name}: asking {self.name} to stop")
            if number == signal.SIGTERM or asked is None:
                asked = number
            if asked == signal.SIGUSR2:
                deadline = time.monotonic() + self._time_to_stop()
            with contextlib.suppress(OSError):  # a full disk: then the signal has to do
                stop_file.touch()
            send([one for one in descendants() if handles(one.pid, signal.SIGUSR2)], signal.SIGUSR2)
        return asked

    def _time_to_stop(self) -> float:
        """Return how many seconds the command may take to stop; SLURM asks up to a minute early."""
        left = max(5.0, self.stop_seconds - MARGIN)
        if self.minutes is None:
            return left
        return max(left, 60 * self.minutes - (time.time() - psutil.Process().create_time()) - MARGIN)

    @staticmethod
    def _be_ended(job: JobEnvironment) -> None:
        """After SIGTERM: end, if SLURM is ending this job, for good or to start it again.

        If SLURM some seconds later still takes it for running, the signal did not come with a scancel, a
        requeue or a time limit, but from a node that shuts down or at the start of a preemption's grace time.
        """
        while descendants():
            time.sleep(0.1)  # a command that writes its state; SLURM's SIGKILL bounds this
        state, until = "", time.monotonic() + SETTLED
        command = ["squeue", "--noheader", "--array", "--format=%T", "--states=all", f"--jobs={job.job_id}"]
        while job.cluster == "slurm" and time.monotonic() < until and state in ("", "RUNNING"):
            time.sleep(1)
            state, _ = ask(*command)
        if state != "RUNNING":
            sys.exit(128 + signal.SIGTERM)

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


def _killer(status: int | None) -> str:
    """Return the name of the signal that a shell's exit status stands for."""
    names = {128 + one: f" ({one.name})" for one in signal.Signals}
    return names.get(status or 0, "")


def _run_again(job: JobEnvironment) -> NoReturn:
    """End without a result: the job will run again."""
    if job.cluster != "slurm":
        sys.exit(LOCAL_REQUEUE_RETURN_CODE)
    # The controller may be away just now; the job's own end, which is near, bounds the trying.
    while failure := ask("scontrol", "requeue", job.job_id)[1]:
        say(f"{failure}; again in 5 seconds")
        time.sleep(5)
    sys.exit(1)


def complain(job: JobEnvironment, words: str) -> None:
    """Say something where it is seen although nothing can be written: in the job's comment in the queue."""
    say(words)
    if job.cluster == "slurm":
        known, _ = ask("squeue", "--noheader", "--array", f"--jobs={job.job_id}", "--format=%k")
        words = f"Comment={known.split(COMPLAINT)[0]}{COMPLAINT}{words}"
        ask("scontrol", "update", f"JobId={job.job_id}", words)


def _give_log_room(folder: Path) -> None:
    """Let output go to this node's temporary folder where the log's disk is full: printing must not fail."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)


def main(folder: Path, token: str = "") -> int:
    """Run the command whose pickle lies in `folder` and leave its result there."""
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, lambda number, _: _early.append(number))
    os.environ["SUBMITIT_FOLDER"] = str(folder)
    _give_log_room(folder)
    job = JobEnvironment()
    submission = pickled(folder, token, job.array_task_id) if token else job.paths.submitted_pickle
    until = time.monotonic() + 60  # a shared disk may be late
    while not submission.exists() and time.monotonic() < until:
        if job.paths.result_pickle.exists():  # it had succeeded when its node was lost
            return 0
        time.sleep(1)
    command = cast("Command", DelayedSubmission.load(submission).function)
    if job.array_job_id and command.label:  # the array's name is what its tasks have in common
        subprocess.Popen(
            ["scontrol", "update", f"JobId={job.job_id}", f"Name={command.label}"], stderr=subprocess.DEVNULL
        )
    say(f"{command.label or command.name}, job {job.job_id} on {job.hostname}")
    result: tuple[str, object]
    try:
        result, status = ("success", command()), 0
    except Exception as error:
        expected = isinstance(error, CommandFailed)
        say(str(error) if expected else traceback.format_exc())
        result, status = ("error", f"{type(error).__name__}: {error}"), 1
    try:
        write(job.paths.result_pickle, pickle.dumps(result))
        if status == 0:
            submission.unlink()
    except OSError as error:  # a job that succeeded does so all the same: its exit status says it
        reason = f"{str(result[1]).removeprefix(FAILED)}; " if status else ""
        complain(job, f"{reason}its result could not be written: {error}")
    return status


if __name__ == "__main__":
    # As a module of its own name, for pickles refer to that.
    sys.exit(importlib.import_module(f"{__package__}.node").main(Path(sys.argv[1]), *sys.argv[2:]))
