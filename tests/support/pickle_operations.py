"""Pickles written operation by operation, to say what no pickler would say."""

from __future__ import annotations

import io
import pickle
import struct
from typing import Any

import torch

CANARY = "a-canary-that-hostile-pickles-touch"
COMMAND = f"touch {CANARY}"
SOURCE = f"import os\nos.system({COMMAND!r})\nopen({CANARY!r}, 'w')\n"
REBUILD, LOAD = "torch._utils._rebuild_tensor_v2", "torch.storage._load_from_bytes"
PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"


def text(value: str) -> bytes:
    encoded = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def binary(value: bytes) -> bytes:
    return pickle.BINBYTES + struct.pack("<I", len(value)) + value


def long(value: int) -> bytes:
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return pickle.LONG1 + bytes([len(content)]) + content


def many(*values: bytes) -> bytes:
    return pickle.MARK + b"".join(values) + pickle.TUPLE


def named(name: str) -> bytes:
    module, _, own = name.rpartition(".")
    return text(module) + text(own) + pickle.STACK_GLOBAL


def call(function: str, *arguments: bytes) -> bytes:
    return named(function) + many(*arguments) + pickle.REDUCE


def table(**entries: bytes) -> bytes:
    inside = b"".join(text(name) + value for name, value in entries.items())
    return pickle.EMPTY_DICT + pickle.MARK + inside + pickle.SETITEMS


def stream(value: bytes, protocol: int = 4) -> bytes:
    return pickle.PROTO + bytes([protocol]) + value + pickle.STOP


def module(parameters: bytes = b"}", modules: bytes = b"}", arguments: bytes = b"}") -> bytes:
    state = {"_parameters": parameters, "_buffers": b"}", "_modules": modules, "_init_kwargs": arguments}
    meta = {"class_name": text("EDMPrecond"), "module_src": text(SOURCE), "state": table(**state)}
    return call(PERSISTENT, table(type=text("class"), **meta))


def ema(value: bytes) -> bytes:
    """A pickle of EDM's shape, and what stands in the network's place."""
    return stream(table(ema=value))


def weight(value: bytes) -> bytes:
    """A pickle of EDM's shape that holds one parameter."""
    return ema(module(table(weight=value)))


def argument(value: bytes, name: str = "num_blocks") -> bytes:
    """A pickle of EDM's shape without weights, and an argument of its constructor."""
    return ema(module(arguments=table(**{name: value})))


ONE, NOUGHT = b"K\x01\x85", b"K\x00"


def tensor(payload: bytes, size: bytes = ONE, stride: bytes = ONE, offset: bytes = NOUGHT) -> bytes:
    return call(
        REBUILD, call(LOAD, binary(payload)), offset, size, stride, b"\x89", call("collections.OrderedDict")
    )


def described(count: bytes = b"K\x01", view: bytes = b"N") -> bytes:
    """The description of a storage, as a persistent id."""
    return many(text("storage"), named("torch.FloatStorage"), text("0"), text("cpu"), count, view) + b"Q"


def storage(description: bytes, numbers: bytes = struct.pack("<qf", 1, 0.0)) -> bytes:
    """The bytes of a legacy `torch.save` of one number, with a description of one's own."""
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, facts)]
    return b"".join([*parts, stream(description, 2), pickle.dumps(["0"], 2)]) + numbers


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


SHELL = named("posix.system") + text(COMMAND) + pickle.TUPLE1 + pickle.REDUCE
ORDERED = call("collections.OrderedDict")
FLOAT = storage(described())
