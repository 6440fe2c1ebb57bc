"""Starting the processes of one run on one machine, and ending as they end.

`torchrun` does as well, but ends with the status 1 whatever its processes ended with, so that a run that was
asked to stop cannot be told from one that failed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from gdd.training.stop import STOPPED

FORWARDED = (signal.SIGUSR2, signal.SIGTERM)
LOOK = 0.1  # seconds between two looks at the processes
PR_SET_PDEATHSIG = 1  # Linux: a process gets a signal once its parent has ended
GRACE = 20.0  # seconds that the others have to notice that one has ended


@dataclass(frozen=True)
class Nodes:
    """The machines of a run: how many, which of them this is, and where the first can be reached."""

    count: int = 1
    index: int = 0
    address: str = "127.0.0.1"
    port: int | None = None  # None is a free one; several machines have to agree on it


ONE = Nodes()


def launch(command: Sequence[str], processes: int, nodes: Nodes = ONE, keep: Sequence[int] = ()) -> int:
    """Run `command` in so many processes on this machine, which make up one run; return their exit status.

    SIGUSR2 and SIGTERM are passed on, and the first Ctrl-C as SIGUSR2; a second one means now. Once a process
    has ended with a status other than 0 the others have 20 seconds to end as well; that first status is
    returned, 128 + n for one that signal n ended. The status of a run that can be resumed gives way to any
    other, as that of a process which only found another one lost. They are asked to stop if this process is
    killed.

    Args:
        command: program and arguments; each process gets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE,
            MASTER_ADDR and MASTER_PORT besides.
        processes: on this machine, and on each of the others.
        nodes: all machines of the run.
        keep: descriptors that the processes hold as well, such as those of locks.
    """
    common = {
        "WORLD_SIZE": processes * nodes.count,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": nodes.address,
        "MASTER_PORT": free_port() if nodes.port is None else nodes.port,
    }
    # A core each, unless somebody knows better: every process would take all of them.
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": 1}
    running: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: FrameType | None) -> None:
        for process in running:
            process.send_signal(number)

    def interrupt(_: int, frame: FrameType | None) -> None:
        # A terminal's Ctrl-C has reached the processes by itself, and a second SIGINT would end them at once.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        forward(signal.SIGUSR2, frame)

    previous: dict[int, Any] = {number: signal.signal(number, forward) for number in FORWARDED}
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        previous[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    prepare = _preparation([number for number, handler in previous.items() if handler == signal.SIG_IGN])
    try:
        for local in range(processes):
            variables = {**common, **threads, "RANK": nodes.index * processes + local, "LOCAL_RANK": local}
            environment = os.environ | {name: str(value) for name, value in variables.items()}
            running.append(
                subprocess.Popen(
                    list(command),
                    env=environment,
                    pass_fds=keep,
                    preexec_fn=prepare,  # noqa: PLW1509 - this process has no other thread
                )
            )
        return _wait(running)
    finally:
        for process in running:
            process.kill()
            process.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _preparation(ignored: Sequence[int]) -> Callable[[], None]:
    """Return what a process does before it becomes the command: ignore these signals, as this process did.

    A scheduler's signal must not end a process that has not got as far as taking it for a request to stop.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        if libc:
            libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))

    return prepare


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
        time.sleep(LOOK)


def free_port() -> int:
    """Return a port that nothing on this machine listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
