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


def text(value: str) -> bytes:
    encoded = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def binary(value: bytes) -> bytes:
    return pickle.BINBYTES + struct.pack("<I", len(value)) + value


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + pickle.STACK_GLOBAL


def many(*values: bytes) -> bytes:
    return pickle.MARK + b"".join(values) + pickle.TUPLE


def call(function: str, *arguments: bytes) -> bytes:
    return named(*function.rsplit(".", 1)) + many(*arguments) + pickle.REDUCE


def table(**entries: bytes) -> bytes:
    inside = b"".join(text(name) + value for name, value in entries.items())
    return pickle.EMPTY_DICT + pickle.MARK + inside + pickle.SETITEMS


def stream(value: bytes, protocol: int = 4) -> bytes:
    return pickle.PROTO + bytes([protocol]) + value + pickle.STOP


def module(
    parameters: bytes = pickle.EMPTY_DICT, modules: bytes = pickle.EMPTY_DICT, **state: bytes
) -> bytes:
    state = {"_init_kwargs": pickle.EMPTY_DICT, **state}
    inside = table(_parameters=parameters, _buffers=pickle.EMPTY_DICT, _modules=modules, **state)
    meta = table(type=text("class"), class_name=text("EDMPrecond"), module_src=text(SOURCE), state=inside)
    return call("torch_utils.persistence._reconstruct_persistent_obj", meta)


def tensor(
    payload: bytes, size: bytes = b"K\x01\x85", stride: bytes = b"K\x01\x85", offset: bytes = b"K\x00"
) -> bytes:
    storage = call("torch.storage._load_from_bytes", binary(payload))
    hooks = call("collections.OrderedDict")
    return call("torch._utils._rebuild_tensor_v2", storage, offset, size, stride, b"\x89", hooks)


def network(weight: bytes, **state: bytes) -> bytes:
    """A pickle of EDM's shape that holds one tensor."""
    return stream(table(ema=module(table(weight=weight), **state)))


def storage(described: bytes, keys: bytes = pickle.EMPTY_LIST, numbers: bytes = b"") -> bytes:
    """The bytes of a legacy `torch.save`, with a description and keys of one's own."""
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, facts)]
    return b"".join([*parts, stream(described, 2), stream(keys, 2)]) + numbers


def described(count: bytes, view: bytes = b"N") -> bytes:
    """The description of a storage, as a persistent id."""
    named_parts = text("storage"), named("torch", "FloatStorage"), text("0"), text("cpu")
    return many(*named_parts, count, view) + b"Q"


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


SYSTEM = named("posix", "system")
SHELL = SYSTEM + text(COMMAND) + pickle.TUPLE1 + pickle.REDUCE
ORDERED = call("collections.OrderedDict")
FLOATS = storage(described(b"K\x01"), b"]" + text("0") + b"a", struct.pack("<qf", 1, 0.0))
