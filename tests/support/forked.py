"""Several processes of one run, forked from the test."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable

FORK = multiprocessing.get_context("fork")


def in_processes(count: int, function: Callable[[int], None], seconds: float = 120) -> list[int]:
    """Call `function(rank)` in so many processes, set up as torchrun does; return their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def work(rank: int) -> None:
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in variables.items()} | {"MASTER_ADDR": "127.0.0.1"}
        function(rank)

    processes = [FORK.Process(target=work, args=(rank,)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(seconds)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert None not in codes, "a process hangs"
    return [code for code in codes if code is not None]
