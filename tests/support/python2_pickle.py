"""Pickles as Python 2 wrote them, which is how CIFAR-10 was published."""

from __future__ import annotations

import io
import pickle
from typing import Any


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its text, which is how the published files came to be."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        if len(value) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(value)]) + value)
        else:
            self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def python2(value: Any, numpy_core: str = "numpy.core.multiarray") -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, 2).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"c" + numpy_core.encode() + b"\n")
