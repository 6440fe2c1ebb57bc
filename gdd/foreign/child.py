"""What `read.py` runs in a process of its own: a pickle comes in, JSON and raw numbers go out.

The kernel limits memory, time and files, and an audit hook stops whatever else happens. Only the standard
library is imported. Standard input is the file. Standard output is one line of JSON, followed by the numbers
of the tensors in it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import sys
from typing import IO, Any

from gdd.foreign.inert import DAMAGED, READERS, Problem


def confine(size: int) -> None:
    """Limit what this process can do from here on, for a file of `size` bytes."""
    memory = 2**27 + size * 3 // 2  # protocol 2 writes bytes as text, and both are kept
    limits = {
        resource.RLIMIT_DATA: memory,
        resource.RLIMIT_AS: memory + 2**28,  # for kernels before 4.7; counts libraries and locales too
        resource.RLIMIT_CPU: 3 + size // 10**8,  # seconds
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 3,  # the standard streams
    }
    for kind, limit in limits.items():
        with contextlib.suppress(ValueError):  # a stricter one is in force; or macOS, which knows not all
            resource.setrlimit(kind, (limit, limit))
    gc.disable()
    sys.addaudithook(stop)


def stop(event: str, _: tuple[Any, ...]) -> None:
    """End the process at whatever the interpreter reports."""
    if event != "builtins.id":
        problem = f"tries to do something ({event}), and was stopped; check where it comes from"
        write(json_line({"problem": problem}))


def answer(file: IO[bytes], kind: str, key: str) -> list[bytes | memoryview]:
    """Return the line of JSON and the numbers of tensors, or a line that says why the file is refused."""
    try:
        facts, found = READERS[kind](file, key)
        views = {name: (t.storage.dtype, t.storage.length, *t[1:]) for name, t in found.items()}
        line = json_line({"facts": facts, "tensors": views})
    except MemoryError:
        raise
    except Problem as problem:
        return [json_line({"problem": str(problem)})]
    except Exception:  # a stream of nonsense makes the interpreter fail in every way
        return [json_line({"problem": DAMAGED})]
    return [line, *(tensor.storage.numbers for tensor in found.values())]


def json_line(header: dict[str, Any]) -> bytes:
    line = json.dumps(header)
    if "\\" in line or not line.isprintable():
        line = '{"problem": "has names or texts with special characters; check where it comes from"}'
    return f"{line}{' ' * (-len(line) % 8 + 7)}\n".encode()  # numbers begin at a multiple of 8


def write(*parts: bytes | memoryview) -> None:
    """Write the answer and end."""
    for part in parts:
        sys.stdout.buffer.write(part)
    sys.stdout.flush()
    os._exit(0)


def main(kind: str, key: str) -> None:
    """Read standard input and write what is in it to standard output."""
    confine(os.fstat(0).st_size)
    try:
        write(*answer(sys.stdin.buffer, kind, key))
    except MemoryError:
        os._exit(1)
