"""Networks out of pickles as EDM (arXiv:2206.00364) publishes them, without running anything in them.

Such a file holds a dict whose `ema` is the network. An object in it is a request to execute the source text
of its class and to fill an instance with `state`, the instance's `__dict__`; this takes the state alone.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gdd.errors import UserError
from gdd.networks.inert_pickle import read_pickle
from gdd.networks.pickle_machine import Budget, PickleProblem, Record
from gdd.networks.torch_legacy import read_storage, view

MAPPINGS = {"collections.OrderedDict", "dnnlib.EasyDict", "dnnlib.util.EasyDict"}
SCALARS = {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"}
DTYPE = "numpy.dtype"
NUMBERS = {code: np.dtype(f"<{code}") for code in ("f8", "f4", "i8", "i4", "b1")}
ENCODE = "_codecs.encode"
TENSOR = "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"
STORAGE = "torch.storage._load_from_bytes"
PERSISTENT_CLASS = "torch_utils.persistence._reconstruct_persistent_obj"
MODULES = {
    "torch.nn.modules.container.ModuleDict",
    "torch.nn.modules.container.ModuleList",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.sparse.Embedding",
}
SET = "builtins.set"  # of protocol 3, which has no operation for it
ALLOWED = {*MAPPINGS, *SCALARS, *MODULES, DTYPE, ENCODE, TENSOR, PARAMETER, STORAGE, PERSISTENT_CLASS, SET}

LONGEST_NAME = 250  # characters of a dotted name
MOST_ARGUMENTS = 64  # of a constructor, and entries of one that is a list
EMBEDDING_SHAPE = (1000, 320)  # ImageNet's classes, and the features of EfficientNet-lite0


class PickledNetwork(NamedTuple):
    """What leaves a pickle: the class's name, its constructor's arguments, and tensors by dotted name.

    The tensors lie in the file, and a write to one stays in memory.
    """

    class_name: str
    arguments: dict[str, Any]
    tensors: dict[str, Tensor]
    sha256: str


def read_network(path: str | Path, key: str = "ema") -> PickledNetwork:
    """Read the network stored under `key`.

    Raises:
        UserError: the file is missing, damaged, asks for anything but a network, or has no such network.
    """
    with _contents(path) as contents:
        reader = _Reader(contents)
        held = _mapping(reader.value)
        if key not in held:
            there = ", ".join(ascii(name[:40])[1:-1] for name in list(held)[:8])
            raise PickleProblem(f"holds no '{key}' but {there or 'nothing'}; give the key of a network")
        class_name, state = _persistent_state(held[key])
        arguments = _mapping(state.get("_init_kwargs"))
        if state.get("_init_args") or len(arguments) > MOST_ARGUMENTS:
            raise PickleProblem("holds a network whose constructor's arguments have no names; save it anew")
        arguments = {name: _plain(name, value) for name, value in arguments.items()}
        tensors = reader.tensors(held[key])
        return PickledNetwork(class_name, arguments, tensors, hashlib.sha256(contents).hexdigest())


def read_embedding(path: str | Path) -> Tensor:
    """Read the table [1000, 320] of class embeddings, float32, that StyleGAN-XL publishes as a pickle.

    The file holds a dict whose `embed` is a `torch.nn.Embedding` or the table itself.

    Raises:
        UserError: the file is missing, damaged, or something else.
    """
    with _contents(path) as contents:
        reader = _Reader(contents)
        embed = _mapping(reader.value).get("embed")
        is_tensor = type(embed) is Record and embed.name in (TENSOR, PARAMETER)
        table = reader.tensor(embed) if is_tensor else reader.tensors(embed).get("weight")
        if table is None or tuple(table.shape) != EMBEDDING_SHAPE or not table.is_floating_point():
            raise PickleProblem(f"holds no table of {EMBEDDING_SHAPE} under 'embed'; check the file")
        return table.to(torch.float32, copy=True)


@contextmanager
def _contents(path: str | Path) -> Iterator[memoryview]:
    """Yield a file's bytes, and make one sentence of what is wrong with them."""
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist or is no file.")
    try:
        with Path(path).open("rb") as file:
            if not file.seek(0, 2):
                raise PickleProblem("is empty; fetch it again")
            # Mapped, so that large weights are in memory once. Private, because tensors must be writable.
            yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except PickleProblem as problem:
        raise UserError(f"{path} {problem}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None


class _Reader:
    """A file's value, and the way from its records to tensors."""

    def __init__(self, contents: memoryview) -> None:
        self._budget = Budget()
        self._used: set[int] = set()  # payloads, which stay alive, by identity
        self.value, _ = read_pickle(contents, ALLOWED, self._budget)

    def tensors(self, module: Any) -> dict[str, Tensor]:
        """Return the parameters and buffers of a module and those inside it, by dotted name."""
        found: dict[str, Tensor] = {}
        pending = [("", module)]
        while pending:
            prefix, current = pending.pop()
            if len(prefix) > LONGEST_NAME:
                raise PickleProblem("holds modules in modules without an end; check its origin")
            state = _module_state(current)
            own = [_mapping(state.get(kind)) for kind in ("_parameters", "_buffers")]
            children = _mapping(state.get("_modules"))
            # Visits cost like operations: the same record may stand in any number of places.
            self._budget.spend(operations=1 + sum(map(len, own)) + len(children))
            passing = _names(state.get("_non_persistent_buffers_set"))
            for name, value in (entry for tensors in own for entry in tensors.items()):
                if value is None or name in passing:
                    continue
                if prefix + name in found:
                    raise PickleProblem(f"holds two tensors named {prefix + name!a}; fetch it again")
                found[prefix + name] = self.tensor(value)
            pending += [(f"{prefix}{name}.", child) for name, child in children.items() if child is not None]
        return found

    def tensor(self, value: Any) -> Tensor:
        """Return a parameter's or buffer's tensor."""
        if type(value) is Record and value.name == PARAMETER and value.arguments:
            value = value.arguments[0]
        match value:
            case Record(
                name=made_by,
                arguments=(
                    Record(name=read_by, arguments=(memoryview() as payload,)),
                    offset,
                    size,
                    stride,
                    *_,
                ),
            ) if (made_by, read_by) == (TENSOR, STORAGE):
                # A small file could become endless weights by sharing, and no network of EDM does.
                if id(payload) in self._used:
                    raise PickleProblem("holds tensors that share their numbers; save it with copies")
                self._used.add(id(payload))
                return view(read_storage(payload, self._budget), offset, size, stride)
        raise PickleProblem("has something else in the place of a tensor; check its origin")


def _mapping(value: Any) -> dict[str, Any]:
    if type(value) is Record and value.name in MAPPINGS:
        return value.items
    if type(value) is dict:
        return value
    raise PickleProblem("lacks a dict that every network has; check that it is the right file")


def _names(value: Any) -> set[str]:
    if type(value) is Record and value.name == SET and value.arguments:
        (value,) = value.arguments[:1]
    return {name for name in value if type(name) is str} if type(value) in (set, list) else set()


def _module_state(value: Any) -> dict[str, Any]:
    if type(value) is Record and value.name in MODULES:
        return _mapping(value.state)
    return _persistent_state(value)[1]


def _persistent_state(value: Any) -> tuple[str, dict[str, Any]]:
    """Return an object's class name and its `__dict__`."""
    if type(value) is Record and value.name == PERSISTENT_CLASS and len(value.arguments) == 1:
        meta = _mapping(value.arguments[0])
        class_name = meta.get("class_name")
        if meta.get("type") == "class" and type(class_name) is str:
            return class_name, _mapping(meta.get("state"))
    raise PickleProblem("has something else in the place of a network; check its key and where it comes from")


def _plain(name: str, value: Any) -> Any:
    """Return a constructor's argument as numbers, texts and lists of them."""
    if type(value) in (list, tuple) and len(value) <= MOST_ARGUMENTS:
        return [_single(name, entry) for entry in value]
    return _single(name, value)


def _single(name: str, value: Any) -> Any:
    if value is None or type(value) in (bool, float):
        return value
    if (type(value) is int and abs(value) < 2**16) or (type(value) is str and len(value) <= 100):
        return value
    match value:
        case Record(name=made_by, arguments=(Record(name=dtype, arguments=(str(code), *_)), content)) if (
            made_by in SCALARS and dtype == DTYPE
        ):
            number, layout = _bytes(content), NUMBERS.get(code)
            if layout and len(number) == layout.itemsize:
                return _single(name, np.frombuffer(number, layout)[0].item())
    raise PickleProblem(f"has {name!a} among its constructor's arguments, with a value that no network has")


def _bytes(value: Any) -> bytes:
    match value:
        case memoryview() if len(value) <= 8:
            return bytes(value)
        case Record(name=made_by, arguments=(str(text), "latin1")) if made_by == ENCODE and len(text) <= 8:
            return text.encode("latin1", errors="replace")
    return b""
