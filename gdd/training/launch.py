"""Starting the processes of one run: on this machine, and on several machines of a SLURM job.

`torchrun` starts processes as well, but ends with the status 1 whatever they ended with, so that a run which
was asked to stop could not be told from one that failed.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from gdd.errors import UserError
from gdd.training.stop import STOPPED

FORWARDED = (signal.SIGUSR2, signal.SIGTERM)
POLL = 0.1  # seconds between two looks at the processes
GRACE = 20.0  # seconds that the others have to notice that one has ended
PR_SET_PDEATHSIG = 1  # Linux: a process gets a signal once its parent has ended
MEETING = "GDD_MEETING"  # "host port" of the first machine: set in the tasks of a SLURM step


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

    SIGUSR2 and SIGTERM are passed on, and the first Ctrl-C as SIGUSR2; a second one ends all at once. If this
    process is killed, the others are asked to stop.

    Once a process has ended with a status other than 0 the others have 20 seconds to end as well. The first
    such status is returned, 128 + n for one that signal n ended; but the status of a run that can be resumed
    gives way to any other, because a process that has lost another one ends with it, too.

    Args:
        command: program and arguments; each process gets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE,
            MASTER_ADDR and MASTER_PORT besides.
        processes: on this machine, and on each of the others.
        nodes: all machines of the run.
    """
    common = {
        "WORLD_SIZE": processes * nodes.count,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": nodes.address,
        "MASTER_PORT": free_port() if nodes.port is None else nodes.port,
    }
    if "OMP_NUM_THREADS" not in os.environ:
        common["OMP_NUM_THREADS"] = 1  # or every process would take all cores
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
        for local_rank in range(processes):
            own = {"RANK": nodes.index * processes + local_rank, "LOCAL_RANK": local_rank}
            environment = os.environ | {name: str(value) for name, value in {**common, **own}.items()}
            running.append(
                subprocess.Popen(
                    list(command),
                    env=environment,
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

    A scheduler's signal must not end a process that does not take it for a request to stop yet.
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
        UserError: this is no SLURM job, or one of fewer machines, or SLURM does not answer.
    """
    there = int(os.environ.get("SLURM_JOB_NUM_NODES", "0"))
    if there < nodes:
        has = f"this SLURM job has {there}" if there else "this is no SLURM job"
        raise UserError(f"The run is to be spread over {nodes} machines, but {has}.")
    # The first one is where this process runs, so that a port that is free here is free there.
    environment = os.environ | {MEETING: f"{_first_host()} {free_port()}"}
    # This process is the batch script, or in a step that has all of the job (`--overlap`); its variables say
    # 1 for `--ntasks`, and bind to processors of this machine. Since SLURM 22.05 a step gets one processor a
    # task unless it is told. The others of a run whose processes have ended on one machine have a minute.
    options = ["--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    options += ["--cpu-bind=none", "--wait=60"]
    if cores := os.environ.get("SLURM_CPUS_PER_TASK"):
        options.append(f"--cpus-per-task={cores}")
    if gpus:
        options.append(f"--gpus-per-node={gpus}")
    # Tasks start with every signal as usual, and a request to stop would end them before they can obey it.
    step = ["srun", *options, "env", "--ignore-signal=USR2", *command]
    os.execvpe("srun", step, environment)


def own_place() -> Nodes | None:
    """Return all machines and which of them this is, in a task of such a step; None anywhere else."""
    if MEETING not in os.environ:
        return None
    host, port = os.environ[MEETING].split()
    count, index = int(os.environ["SLURM_STEP_NUM_NODES"]), int(os.environ["SLURM_NODEID"])
    return Nodes(count, index, host, int(port))


def _first_host() -> str:
    names = _scontrol("show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()
    # A node's name is what SLURM calls it, its address what the network does.
    address = re.search(r"\bNodeAddr=(\S+)", _scontrol("show", "node", names[0], "--oneliner"))
    return address[1] if address else names[0]


def _scontrol(*arguments: str) -> str:
    command = ["scontrol", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1].rstrip(".")
        raise UserError(
            f"`{' '.join(command)}`, which is to say where the run's machines are, failed ({reason}); start "
            "the job again once SLURM answers."
        ) from None
