"""Tensors inside pickled networks: a storage in torch's legacy format, and a view of it.

`pickle.dump` of a tensor writes its storage as the bytes of a legacy `torch.save`: five pickles (a magic
number, the format's version, facts about the machine, the storage's description, its key), then raw numbers.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gdd.networks.inert_pickle import PERSISTENT, read_pickle
from gdd.networks.pickle_machine import DAMAGED, Budget, Global, PickleProblem, Record

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
VERSION = 1001
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
STORAGES = {f"{module}.{name}": dtype for module in ("torch", "torch.cuda") for name, dtype in DTYPES.items()}
UNKNOWN = "holds a tensor in a form that torch does not write; fetch it again"


@dataclass(frozen=True)
class Storage:
    """Numbers in the order of memory: `count` of them, in little-endian bytes."""

    dtype: torch.dtype
    count: int
    data: memoryview


def read_storage(payload: memoryview, budget: Budget) -> Storage:
    """Read the bytes that `torch.storage._load_from_bytes` would be given; the numbers are not copied.

    Raises:
        PickleProblem: they are something else, or beyond the budget.
    """
    values, at = [], 0
    for _ in range(5):
        value, at = read_pickle(payload, STORAGES, budget, at, persistent_ids=True)
        values.append(value)
    magic, version, machine, described, keys = values
    if (magic, version) != (MAGIC_NUMBER, VERSION) or type(machine) is not dict:
        raise PickleProblem(UNKNOWN)
    if machine.get("little_endian") is not True:
        raise PickleProblem("was written on a big-endian machine; save it again on another one")
    dtype, key, count = _described(described)
    size = count * dtype.itemsize
    if keys != [key] or len(payload) != at + 8 + size or struct.unpack_from("<q", payload, at) != (count,):
        raise PickleProblem(DAMAGED)
    return Storage(dtype, count, payload[at + 8 :])


def _described(value: Any) -> tuple[torch.dtype, str, int]:
    match value:
        case Record(
            name=name, arguments=(("storage", Global(name=kind), str(key), str(), int(count), None),)
        ) if name == PERSISTENT and count > 0:
            return STORAGES[kind], key, count
    raise PickleProblem(UNKNOWN)


def view(storage: Storage, offset: Any, size: Any, stride: Any) -> Tensor:
    """Return the tensor of shape `size` whose first element is at `offset`, on the storage's own memory.

    Raises:
        PickleProblem: it is no part of the storage, or uses a number more than once.
    """
    if not (_counts((offset,)) and _counts(size) and _counts(stride) and len(size) == len(stride)):
        raise PickleProblem(UNKNOWN)
    last = offset + sum((entries - 1) * step for entries, step in zip(size, stride, strict=True))
    if 0 in size or last >= storage.count or math.prod(size) > storage.count:
        raise PickleProblem("holds a tensor that reaches beyond its numbers; fetch it again")
    numbers = torch.frombuffer(storage.data, dtype=storage.dtype, count=storage.count)
    return numbers.as_strided(size, stride, offset)


def _counts(value: Any) -> bool:
    """Return whether this is a short tuple of numbers that torch can count to."""
    if type(value) is not tuple or len(value) > 8:
        return False
    return all(type(entry) is int and 0 <= entry < 2**48 for entry in value)
