"""What others pickled, as JSON and raw numbers: what `foreign.py` runs in a process of its own.

The kernel limits memory, time and files, and an audit hook stops whatever else happens. Only the standard
library is imported. Standard input is the file. Standard output is one line of JSON, followed by the numbers
of the tensors in it.
"""

from __future__ import annotations

import codecs
import contextlib
import gc
import io
import json
import math
import os
import resource
import sys
import zipfile
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import PurePosixPath
from typing import IO, Any

from gdd.networks.inert import (
    BATCHES,
    DAMAGED,
    NETWORKS,
    STORAGES,
    TENSORS,
    Numbers,
    Problem,
    Reader,
    Record,
    Storage,
    Tensor,
    rebuild_tensor,
)

codecs.lookup("cp437")  # of names in archives; it is imported at its first use, which is not allowed later

# Several times what EDM's largest network has (ADM of ImageNet: 553 tensors).
MOST_PARTS = 10_000  # modules and tensors
LONGEST_NAME = 200  # characters of a dotted name

Contents = tuple[dict[str, Any], dict[str, Tensor]]  # what can be JSON, and tensors by name


def network(file: IO[bytes], key: str) -> Contents:
    """Return class name, constructor's arguments and tensors of the network under `key` of a dict."""
    held = Reader(file, NETWORKS).load()
    if type(held) is not dict:
        raise Problem(DAMAGED)
    if key not in held:
        there = ", ".join([name[:40] for name in held if type(name) is str][:8])
        raise Problem(f"holds no '{key}' but {there or 'nothing'}; give the key of a network")
    state = attributes(held[key])
    if state.get("_init_args"):
        raise Problem("holds a network whose constructor's arguments have no names; save it anew")
    facts = {"class_name": held[key].arguments[0], "arguments": state["_init_kwargs"]}
    return facts, tensors(held[key], children)


def embedding(file: IO[bytes], key: str) -> Contents:
    """Return the table under `key` of a dict: a tensor, or the weight of a module."""
    embed = Reader(file, NETWORKS).load()[key]
    return {}, {"weight": embed} if type(embed) is Tensor else tensors(embed, children)


def batch(file: IO[bytes], _: str) -> Contents:
    """Return the lists and the arrays of bytes in a file of CIFAR-10's."""
    held = Reader(file, BATCHES).load()
    arrays = {}
    for name in [name for name, value in held.items() if type(value) is Record]:
        _, size, dtype, column_major, text = held.pop(name).state
        if dtype.arguments[0] != "u1" or column_major:
            raise Problem("holds an array that is not of bytes in row order; fetch it again")
        numbers = memoryview(text if type(text) is bytes else text.encode("latin1"))
        stride = tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))
        arrays[name] = rebuild_tensor(Storage("uint8", 1, len(numbers), numbers), 0, size, stride)
    return held, arrays


def archive(file: IO[bytes], prefix: str) -> Contents:
    """Return the tensors of a TorchScript archive whose names begin with `prefix`."""
    with zipfile.ZipFile(file) as content:
        path = next(path for path in map(PurePosixPath, content.namelist()) if path.name == "data.pkl")
        numbers: Numbers = lambda key: content.read(f"{path.parent}/data/{key}")  # noqa: E731
        root = Reader(io.BytesIO(content.read(str(path))), TENSORS | STORAGES, numbers).load()
    found = tensors(root, lambda module: module.state.items() if type(module.state) is dict else ())
    return {}, {name: tensor for name, tensor in found.items() if name.startswith(prefix)}


def attributes(module: Any) -> dict[str, Any]:
    if type(module) is not Record:
        raise Problem("has something else in the place of a module; check the key and the file")
    state: dict[str, Any] = module.state
    return state


def children(module: Any) -> Iterable[tuple[str, Any]]:
    """Return the parameters, buffers and modules inside a module, by name."""
    state = attributes(module)
    passing = state.get("_non_persistent_buffers_set", ())
    buffers = ((name, value) for name, value in state["_buffers"].items() if name not in passing)
    return chain(state["_parameters"].items(), buffers, state["_modules"].items())


def tensors(root: Any, inside: Callable[[Any], Iterable[tuple[str, Any]]]) -> dict[str, Tensor]:
    """Return the tensors in a module and in those that are, at any depth, `inside` it, by dotted name."""
    found: dict[str, Tensor] = {}
    pending, parts = [("", root)], 0
    while pending:
        prefix, module = pending.pop()
        for own_name, value in inside(module):
            parts, name = parts + 1, prefix + own_name
            if parts > MOST_PARTS or len(name) > LONGEST_NAME:
                raise Problem("is made of more parts than any published network; check where it comes from")
            if type(value) is Tensor and found.setdefault(name, value) is not value:
                raise Problem(f"holds two tensors named {name}; fetch it again")
            if type(value) is Record:
                pending.append((f"{name}.", value))
    # A small file could become endless weights by sharing.
    if len({id(tensor.storage.numbers.obj) for tensor in found.values()}) < len(found):
        raise Problem("holds tensors that share their numbers; save it with copies")
    return found


def confine(size: int) -> None:
    """Limit what this process can do from here on, for a file of `size` bytes."""
    limits = {
        resource.RLIMIT_AS: 2**28 + size * 3 // 2,  # protocol 2 writes bytes as text, and both are kept
        resource.RLIMIT_CPU: 3 + size // 10**8,  # seconds
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 3,  # the standard streams
    }
    for kind, limit in limits.items():
        most = resource.getrlimit(kind)[1]
        value = limit if most == resource.RLIM_INFINITY else min(limit, most)
        with contextlib.suppress(ValueError):  # macOS has no limit of the address space
            resource.setrlimit(kind, (value, value))
    gc.disable()
    sys.addaudithook(stop)


def stop(event: str, _: tuple[Any, ...]) -> None:
    """End the process at whatever the interpreter reports."""
    if event != "builtins.id":
        write(
            json_line(
                {"problem": f"tries to do something ({event}), and was stopped; check where it comes from"}
            )
        )


def answer(file: IO[bytes], kind: str, key: str) -> list[bytes | memoryview]:
    """Return the line of JSON and the numbers of tensors, or a line that says why the file is refused."""
    readers = {"network": network, "embedding": embedding, "batch": batch, "archive": archive}
    try:
        facts, found = readers[kind](file, key)
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
