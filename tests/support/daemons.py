"""Daemons that a test starts: one log each, never outliving the test, and killed with all they started."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil


def executable(name: str) -> str | None:
    """Return where a program lies; daemons are in /usr/sbin, which is not on everybody's path."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


def wait_for(what: str, true: Callable[[], object], seconds: float = 60, every: float = 0.1) -> None:
    """Wait until something is true, and fail with its name if it never is."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not after {seconds} s"
        time.sleep(every)


def free_ports(count: int) -> range:
    """Return neighbouring ports of loopback nobody listens on; they may be taken a moment later."""
    for first in range(21000 + os.getpid() % 500 * 20, 32000, 20):
        with contextlib.ExitStack() as held:
            try:
                for port in range(first, first + count):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
        return range(first, first + count)
    raise AssertionError(f"there are no {count} free ports in a row")


def processes_of(folder: Path, variables: dict[str, str]) -> list[psutil.Process]:
    """Return the processes that work in a folder or have these environment variables, and all below them."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.cwd() == str(folder) or variables.items() <= process.environ().items():
                for one in (process, *process.children(recursive=True)):
                    found.setdefault(one.pid, one)
    return [process for pid, process in found.items() if pid != os.getpid()]


def kill_all(processes: list[psutil.Process]) -> None:
    """Kill processes as a power loss does: stopped first, so that none sees another one end."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


class Daemons:
    """Named daemons, each with a log in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self, name: str, command: list[str], environment: dict[str, str], folder: Path | None = None
    ) -> None:
        """Start a daemon in the foreground; it ends when the process that started it does."""
        program = executable(command[0])
        assert program, f"{command[0]} is not installed"
        tied = [setpriv, "--pdeathsig", "KILL"] if (setpriv := executable("setpriv")) else []
        with (self.folder / f"{name}.out").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [*tied, program, *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )

    def __contains__(self, name: str) -> bool:
        return name in self._running

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._running))

    def kill(self, name: str) -> None:
        """Kill a daemon without a chance to say anything."""
        if process := self._running.pop(name, None):
            process.kill()
            process.wait()

    def end(self, name: str, patience: float = 10) -> None:
        """Ask a daemon to end; kill it if it does not."""
        if process := self._running.get(name):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
            self.kill(name)
