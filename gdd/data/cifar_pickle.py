"""The pickles inside CIFAR-10's archive, read without running anything that stands in them."""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

import numpy as np

# What plain containers, numbers, text and the reconstruction of an array need, in every protocol up to 4.
# Instances (OBJ, INST, NEWOBJ), persistent ids and extension codes are not among it.
_OPCODES = """
PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT
STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES UNICODE BINUNICODE SHORT_BINUNICODE
EMPTY_DICT DICT SETITEM SETITEMS EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD
""".split()  # noqa: SIM905
_MEMO_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})


class RefusedPickle(Exception):
    """A pickle that holds something other than containers, numbers, text and uint8 arrays."""


def load_plain(content: bytes) -> Any:
    """Read a pickle of containers, numbers, bytes and uint8 arrays; Python 2's text becomes bytes.

    No name in the stream is ever looked up: the three that numpy's arrays need stand for inert objects of
    this module, and any other is refused.

    Raises:
        RefusedPickle: there is anything else in it, or it is cut off.
    """
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name not in _OPCODES:
                raise RefusedPickle(f"uses the pickle instruction {opcode.name}")
            if opcode.name in _MEMO_PUTS and int(argument or 0) > len(content):
                raise RefusedPickle("would fill the memory")
        return _Plain(io.BytesIO(content), encoding="bytes").load()
    except RefusedPickle:
        raise
    except Exception as error:  # a stream of nonsense makes the interpreter fail in every way
        raise RefusedPickle(f"is no whole pickle ({error})") from None


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        }:
            return _Reconstruct()
        if (module, name) == ("numpy", "ndarray"):
            return None  # only ever handed to the above, which ignores it
        if (module, name) == ("numpy", "dtype"):
            return _MakeDtype()
        raise RefusedPickle(f"asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:  # noqa: ARG002
        raise RefusedPickle("holds a persistent id")


class _Inert:
    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise RefusedPickle("changes what it must not")


class _Reconstruct(_Inert):
    __slots__ = ()

    def __call__(self, *_: Any) -> UInt8Array:
        return UInt8Array()


class _MakeDtype(_Inert):
    __slots__ = ()

    def __call__(self, code: Any, *_: Any) -> _Dtype:
        return _Dtype(code)


class _Dtype(_Inert):
    __slots__ = ("code",)

    def __init__(self, code: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Ignore byte order and alignment, which a byte has not."""


class UInt8Array(_Inert):
    """What stands for a numpy array in the result of `load_plain`: its `values`, uint8."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, column_major, data = state
        if not isinstance(dtype, _Dtype) or dtype.code not in (b"u1", "u1") or column_major:
            raise RefusedPickle("holds an array that is not of bytes in row order")
        self.values = np.frombuffer(data, np.uint8).reshape(shape)
