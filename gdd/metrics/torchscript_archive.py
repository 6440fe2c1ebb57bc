"""Tensors out of a TorchScript archive, without running or even compiling what it holds.

`torch.jit.save` writes a ZIP: `data.pkl` describes modules as objects with attributes, `data/<key>` holds the
numbers of each storage, `code/` the program, which nothing here reads.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from gdd.adversary.published_weights import WeightsProblem
from gdd.networks.inert_pickle import PERSISTENT, read_pickle
from gdd.networks.pickle_machine import Budget, Global, PickleProblem, Record
from gdd.networks.torch_legacy import STORAGES, Storage, view

REBUILD = "torch._utils._rebuild_tensor_v2"
HARMLESS = {REBUILD, "collections.OrderedDict", *STORAGES}
DEEPEST = 16  # modules within modules


class _Allowed(frozenset[str]):
    """The names that an archive may use: its own classes besides those of tensors."""

    def __contains__(self, name: object) -> bool:
        own = isinstance(name, str) and name.startswith(("__torch__.", "torch.jit._pickle.build_"))
        return own or super().__contains__(name)


def read_archive(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """Return the tensors below the module `prefix` by the names they have in a state dict, prefix included.

    Raises:
        WeightsProblem: the file is damaged or no TorchScript archive, as the rest of a sentence.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            description = next(
                (name for name in archive.namelist() if PurePosixPath(name).name == "data.pkl"), None
            )
            if description is None:
                raise WeightsProblem("is no TorchScript archive")
            root, _ = read_pickle(
                memoryview(archive.read(description)), _Allowed(HARMLESS), Budget(), persistent_ids=True
            )
            folder = PurePosixPath(description).parent / "data"
            return {
                name: _tensor(archive, folder, record)
                for name, record in _tensors(root, "", DEEPEST)
                if name.startswith(prefix)
            }
    except (zipfile.BadZipFile, EOFError, KeyError, OSError) as error:
        raise WeightsProblem(f"is no whole TorchScript archive ({error})") from None
    except PickleProblem as problem:
        raise WeightsProblem(str(problem)) from None


def _tensors(module: Any, name: str, depth: int) -> Iterator[tuple[str, Record]]:
    """Yield the tensors of a module and of those inside it, as records of how to rebuild them."""
    if not isinstance(module, Record) or not isinstance(module.state, dict):
        return
    if depth == 0:
        raise WeightsProblem("holds modules too deep inside one another; fetch it again")
    for attribute, value in module.state.items():
        if isinstance(value, Record) and value.name == REBUILD:
            yield name + attribute, value
        else:
            yield from _tensors(value, f"{name}{attribute}.", depth - 1)


def _tensor(archive: zipfile.ZipFile, folder: PurePosixPath, record: Record) -> Tensor:
    match record.arguments:
        case (
            Record(
                name=kind, arguments=(("storage", Global(name=storage), str(key), str(), int(count), *_),)
            ),
            offset,
            size,
            stride,
            *_,
        ) if kind == PERSISTENT and storage in STORAGES:
            data = memoryview(bytearray(archive.read(str(folder / key))))
            dtype = STORAGES[storage]
            if len(data) < count * dtype.itemsize:
                raise WeightsProblem("is cut off; fetch it again")
            return view(Storage(dtype, count, data), offset, size, stride)
    raise WeightsProblem("holds a tensor in a form that torch does not write; fetch it again")
