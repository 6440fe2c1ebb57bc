"""The processes of one run: started on this machine or on several of a SLURM job, and asked to stop.

`torchrun` starts processes as well, but ends with the status 1 whatever they ended with, so that a run which
was asked to stop could not be told from one that failed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self

from gdd.errors import STOPPED, UserError

STOP_FILE_VARIABLE = "GDD_STOP_FILE"
SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
POLL = 0.1  # seconds between two looks at the processes
GRACE = 20.0  # seconds that the others have to notice that one has ended
PR_SET_PDEATHSIG = 1  # Linux: a process gets a signal once its parent has ended
PORT = "GDD_PORT"  # on the first machine: set in the tasks of a SLURM step


@dataclass(frozen=True)
class Nodes:
    """The machines of a run: how many, which of them this is, and where the first can be reached."""

    count: int = 1
    index: int = 0
    address: str = "127.0.0.1"
    port: int | None = None  # None is a free one; several machines have to agree on it


ONE = Nodes()


def launch(command: Sequence[str], processes: int, nodes: Nodes = ONE) -> int:
    """Run `command` in so many processes on this machine, which make up one run; return their exit status.

    Each gets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT. SIGUSR2 and SIGTERM
    are passed on, and the first Ctrl-C as SIGUSR2; a second one ends all at once. If this process is killed,
    the others are asked to stop.

    Once a process has ended with a status other than 0 the others have 20 seconds to end as well. The first
    such status is returned, 128 + n for one that signal n ended; but the status of a run that can be resumed
    gives way to any other, because a process that has lost another one ends with it, too.
    """
    common = {
        "WORLD_SIZE": processes * nodes.count,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": nodes.address,
        "MASTER_PORT": nodes.port or free_port(),
    }
    running: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: FrameType | None) -> None:
        for process in running:
            process.send_signal(number)

    def interrupt(_: int, frame: FrameType | None) -> None:
        # A terminal's Ctrl-C has reached the processes by itself, and a second SIGINT would end them at once.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        forward(signal.SIGUSR2, frame)

    previous: dict[int, Any] = {}
    try:
        for local_rank in range(processes):
            own = {"RANK": nodes.index * processes + local_rank, "LOCAL_RANK": local_rank}
            # One thread, or every process would take all cores.
            environment = {"OMP_NUM_THREADS": "1", **os.environ}
            environment |= {name: str(value) for name, value in {**common, **own}.items()}
            # A signal that is ignored here is ignored there as well, until it can be obeyed.
            running.append(subprocess.Popen(command, env=environment, preexec_fn=_end_with_parent))  # noqa: PLW1509
        for asked in SIGNALS:
            previous[asked] = signal.signal(asked, interrupt if asked == signal.SIGINT else forward)
        return _wait(running)
    finally:
        for process in running:
            process.kill()
            process.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    first, deadline = 0, float("inf")
    while True:
        ended = [process.poll() for process in processes]
        bad = [status for status in ended if status]
        if bad and not first:
            deadline = time.monotonic() + GRACE
        if bad and first in {0, STOPPED}:
            first = next((status for status in bad if status != STOPPED), STOPPED)
        if None not in ended or time.monotonic() >= deadline:
            return 128 - first if first < 0 else first
        time.sleep(POLL)


def free_port() -> int:
    """Return a port that nothing on this machine listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def spread(command: Sequence[str], nodes: int, gpus: int) -> NoReturn:
    """Become the SLURM step that runs `command` on so many machines of this job, with `gpus` of each.

    It ends with the highest status of its tasks.

    Raises:
        UserError: this is no SLURM job, or one of fewer machines.
    """
    there = int(os.environ.get("SLURM_JOB_NUM_NODES", "0"))
    if there < nodes:
        has = f"this SLURM job has {there}" if there else "this is no SLURM job"
        raise UserError(f"The run is to be spread over {nodes} machines, but {has}.")
    # This process is the batch script, or in a step that has all of the job (`--overlap`); its variables say
    # 1 for `--ntasks`, and bind to processors of this machine. Since SLURM 22.05 a step gets one processor a
    # task unless `--cpus-per-task` says more. Once a run's processes have ended on one machine, those on the
    # others have a minute.
    options = ["--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    options += ["--cpu-bind=none", "--wait=60"]
    if cores := os.environ.get("SLURM_CPUS_PER_TASK"):
        options.append(f"--cpus-per-task={cores}")
    if gpus:
        options.append(f"--gpus-per-node={gpus}")
    # Tasks start with every signal as usual, and a request to stop would end them before they can obey it.
    step = ["srun", *options, "env", "--ignore-signal=USR2", *command]
    # The first machine is where this process runs, so that a port that is free here is free there.
    os.execvpe("srun", step, os.environ | {PORT: str(free_port())})


def own_place() -> Nodes | None:
    """Return all machines and which of them this is, in a task of such a step; None anywhere else."""
    variables = os.environ
    if PORT not in variables:
        return None
    count, index = int(variables["SLURM_STEP_NUM_NODES"]), int(variables["SLURM_NODEID"])
    return Nodes(count, index, variables["SLURM_LAUNCH_NODE_IPADDR"], int(variables[PORT]))


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
