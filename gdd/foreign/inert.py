"""Pickles read as data: what a file asks to be built becomes a record of the request.

Whoever wrote a pickle decides what is called when it is read. Here each name that networks and image batches
need stands for something of this module that only keeps data, and any other name ends the reading.

`read.py` runs this file in a process of its own, within limits on memory and time. Standard input is the
pickle; standard output is one line of JSON and the values of the tensors in it. Only the standard library is
imported.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import math
import os
import pickle
import resource
import struct
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import PurePosixPath
from typing import IO, Any, NamedTuple

# Several times what EDM's largest network has (ADM of ImageNet: 553 tensors).
MOST_PARTS = 10_000  # modules and tensors
LONGEST_NAME = 200  # characters of a dotted name

DAMAGED = "is damaged, cut off or not what it should be; fetch it again"


class Problem(Exception):
    """Why a file is refused: the rest of a sentence that begins with its name."""


# A pickle gets hold of the following classes, `dict` and `set`, and can set nothing but a Record's state.


class Record:
    """What stands for an object of others: the arguments it was to be made from, and its state."""

    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Function(NamedTuple):
    """A function of this module, for a pickle to call under the name of another one."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


class Storage(NamedTuple):
    """`length` little-endian values in the order of memory."""

    dtype: str
    itemsize: int
    length: int
    values: memoryview
    key: str = ""


class Tensor(NamedTuple):
    """A view of a storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def rebuild_tensor(storage: Storage, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """`torch._utils._rebuild_tensor_v2`."""
    if any(type(count) is not int or not 0 <= count <= storage.length for count in (offset, *size, *stride)):
        raise Problem(DAMAGED)
    last = offset + sum((entries - 1) * step for entries, step in zip(size, stride, strict=True))
    if 0 in size or len(size) > 8 or last >= storage.length or math.prod(size) > storage.length:
        raise Problem("holds a tensor that reaches beyond its values; fetch it again")
    if len(storage.values) != storage.length * storage.itemsize:
        raise Problem(DAMAGED)
    return Tensor(storage, offset, size, stride)


def load_storage(payload: bytes) -> Storage:
    """`torch.storage._load_from_bytes`: torch's old format of five pickles, followed by values."""
    file = io.BytesIO(payload)
    magic, version, machine, storage, keys = (Reader(file, STORAGES).load() for _ in range(5))
    facts = (magic, version, machine["little_endian"], *struct.unpack("<q", file.read(8)), keys)
    if facts != (0x1950A86A20F9469CFC6C, 1001, True, storage.length, [storage.key]):
        raise Problem(DAMAGED)
    made: Storage = storage._replace(values=memoryview(payload)[file.tell() :])
    return made


def persistent_object(meta: dict[str, Any]) -> Record:
    """`torch_utils.persistence`: an object with the source text of its class, which stays text."""
    record = Record(meta["class_name"])
    record.state = meta["state"]
    return record


def scalar(dtype: Record, content: bytes) -> Any:
    """`numpy.core.multiarray.scalar`."""
    layout = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i", "b1": "<?"}[dtype.arguments[0]]
    return struct.unpack(layout, content)[0]


SIZES = {"Double": ("float64", 8), "Float": ("float32", 4), "Half": ("float16", 2)}
SIZES |= {"BFloat16": ("bfloat16", 2), "Long": ("int64", 8), "Int": ("int32", 4), "Short": ("int16", 2)}
SIZES |= {"Char": ("int8", 1), "Byte": ("uint8", 1), "Bool": ("bool", 1)}
STORAGES = {f"torch.{cuda}{name}Storage": kind for name, kind in SIZES.items() for cuda in ("", "cuda.")}

TENSORS = {"collections.OrderedDict": dict, "torch._utils._rebuild_tensor_v2": Function(rebuild_tensor)}
NETWORKS = {
    **TENSORS,
    "torch._utils._rebuild_parameter": Function(lambda tensor, *_: tensor),
    "torch.storage._load_from_bytes": Function(load_storage),
    "torch_utils.persistence._reconstruct_persistent_obj": Function(persistent_object),
    "torch.nn.modules.container.ModuleDict": Record,
    "torch.nn.modules.container.ModuleList": Record,
    "torch.nn.modules.container.Sequential": Record,
    "torch.nn.modules.sparse.Embedding": Record,
    "dnnlib.EasyDict": dict,
    "dnnlib.util.EasyDict": dict,
    "builtins.set": set,
    "__builtin__.set": set,
    "dill._dill._load_type": Function({"set": set}.__getitem__),
    "_codecs.encode": Function(lambda text, _: text.encode("latin1")),  # how protocol 2 writes bytes
    "numpy.dtype": Record,
    "numpy.core.multiarray.scalar": Function(scalar),
    "numpy._core.multiarray.scalar": Function(scalar),
}
BATCHES = {
    "numpy.dtype": Record,
    "numpy.ndarray": None,  # no more than an argument of the next
    "numpy.core.multiarray._reconstruct": Record,
    "numpy._core.multiarray._reconstruct": Record,
}


class Reader(pickle.Unpickler):
    """Reads a pickle that may ask for `names` and, where it is part of an archive, for its own classes.

    `values` then returns the values of a storage of the archive.
    """

    def __init__(
        self, file: IO[bytes], names: Mapping[str, Any], values: Callable[[str], bytes] | None = None
    ) -> None:
        super().__init__(file, encoding="latin1")  # Python 2 wrote bytes as text
        self.names, self.values = names, values

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name."""
        wanted = f"{module}.{name}"
        if wanted in self.names:
            return self.names[wanted]
        if self.values and wanted.startswith(("__torch__.", "torch.jit._pickle.build_")):
            return Record
        raise Problem(
            f"asks for {wanted[:100]}, which no such file needs (nothing of it was run); "
            "get the file from those who published it"
        )

    def persistent_load(self, pid: Any) -> Storage:
        """Return a storage, the values of which follow later, or are a file of the archive."""
        what, kind, key, _, count, *view = pid
        if what != "storage" or kind not in SIZES.values() or type(count) is not int or any(view):
            raise Problem(DAMAGED)
        dtype, itemsize = kind
        values = self.values(key)[: count * itemsize] if self.values else b""
        return Storage(dtype, itemsize, count, memoryview(values), key)


Contents = tuple[dict[str, Any], dict[str, Tensor]]  # what can be JSON, and tensors by name


def network(file: IO[bytes], key: str) -> Contents:
    """Return class name, constructor's arguments and tensors of the module under `key` of a dict."""
    held = Reader(file, NETWORKS).load()
    if type(held) is not dict:
        raise Problem(DAMAGED)
    if key not in held:
        there = ", ".join([name[:40] for name in held if type(name) is str][:8])
        raise Problem(f"holds no '{key}' but {there or 'nothing'}; give the key of a network")
    module, found = held[key], tensors(held[key], children)
    if module.state.get("_init_args"):
        raise Problem("holds a network whose constructor's arguments have no names; save it anew")
    class_name = module.arguments[0] if module.arguments else "module of torch"
    return {"class_name": class_name, "arguments": module.state.get("_init_kwargs")}, found


def batch(file: IO[bytes], _: str) -> Contents:
    """Return the lists and the arrays of bytes in a file of CIFAR-10's."""
    held = Reader(file, BATCHES).load()
    arrays = {}
    for name in [name for name, value in held.items() if type(value) is Record]:
        _, size, dtype, column_major, text = held.pop(name).state
        if dtype.arguments[0] != "u1" or column_major:
            raise Problem("holds an array that is not of bytes in row order; fetch it again")
        values = memoryview(text if type(text) is bytes else text.encode("latin1"))
        stride = tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))
        arrays[name] = rebuild_tensor(Storage("uint8", 1, len(values), values), 0, size, stride)
    return held, arrays


def archive(file: IO[bytes], prefix: str) -> Contents:
    """Return the tensors of a TorchScript archive whose names begin with `prefix`."""
    with zipfile.ZipFile(file) as content:
        path = next(path for path in map(PurePosixPath, content.namelist()) if path.name == "data.pkl")
        description = io.BytesIO(content.read(str(path)))
        root = Reader(
            description, TENSORS | STORAGES, lambda key: content.read(f"{path.parent}/data/{key}")
        ).load()
    found = tensors(root, lambda module: module.state.items() if type(module.state) is dict else ())
    return {}, {name: tensor for name, tensor in found.items() if name.startswith(prefix)}


def children(module: Any) -> Iterable[tuple[str, Any]]:
    """Return the parameters, buffers and modules inside a module, by name."""
    if type(module) is not Record:
        raise Problem("has something else in the place of a module; check the key and the file")
    state = module.state
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
    if len({id(tensor.storage.values.obj) for tensor in found.values()}) < len(found):
        raise Problem("holds tensors that share their values; save it with copies")
    return found


READERS = {"network": network, "batch": batch, "archive": archive}


def answer(file: IO[bytes], kind: str, key: str) -> list[bytes | memoryview]:
    """Return the line of JSON and the values of tensors, or a line that says why the file is refused."""
    try:
        facts, found = READERS[kind](file, key)
        views = {name: (t.storage.dtype, t.storage.length, *t[1:]) for name, t in found.items()}
        return [json_line(facts=facts, tensors=views), *(t.storage.values for t in found.values())]
    except MemoryError:
        raise
    except Problem as problem:
        return [json_line(problem=str(problem))]
    except Exception:  # a stream of nonsense makes the interpreter fail in every way
        return [json_line(problem=DAMAGED)]


def json_line(**content: Any) -> bytes:
    line = json.dumps(content)
    if "\\" in line or not line.isprintable():
        line = '{"problem": "has names or texts with special characters; check where it comes from"}'
    return f"{line}{' ' * (-len(line) % 8 + 7)}\n".encode()  # values begin at a multiple of 8


def main(kind: str, key: str) -> None:
    """Read standard input and write what is in it to standard output."""
    size = os.fstat(0).st_size
    memory = 3 * 2**27 + size * 3 // 2  # protocol 2 writes bytes as text, and both are kept
    for limited, limit in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, 2 + size // 10**8)):
        with contextlib.suppress(ValueError):  # a stricter one is in force; or macOS, which knows not all
            resource.setrlimit(limited, (limit, limit))
    gc.disable()  # or millions of objects would be gone through again and again
    for part in answer(sys.stdin.buffer, kind, key):
        sys.stdout.buffer.write(part)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
