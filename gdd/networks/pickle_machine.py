"""The machine behind `inert_pickle`: bytes, a stack and a memo, and records instead of objects."""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

LONGEST_NAME = 256  # bytes of a module or of a global in it
DAMAGED = "is damaged or cut off; fetch it again"


class PickleProblem(Exception):
    """Why a stream cannot be used: the rest of a sentence that begins with the file's name."""


@dataclass
class Budget:
    """What one file may still cost, nested streams included; several times the need of EDM's largest network.

    Every operation takes a microsecond or two and at most some 300 bytes, and text up to four times its size.
    """

    operations: int = 500_000
    text: int = 16 * 2**20  # bytes

    def spend(self, operations: int = 0, text: int = 0) -> None:
        """Take something off.

        Raises:
            PickleProblem: there is not as much left.
        """
        self.operations -= operations
        self.text -= text
        if self.operations < 0 or self.text < 0:
            raise PickleProblem("is made of far more parts than a network of EDM; check its origin")


@dataclass(frozen=True, slots=True)
class Global:
    """A function or class that a stream names, as `module.name`."""

    name: str


@dataclass(slots=True, eq=False)
class Record:
    """A request to call the global `name`, and what the stream would have done with the outcome."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None
    items: dict[str, Any] = field(default_factory=dict)


class Machine:
    """A stream being read: where, a stack in parts (one a mark), and values that it comes back to.

    Where the stream ends or makes no sense, methods raise what Python raises: IndexError, KeyError,
    struct.error, UnicodeDecodeError.
    """

    def __init__(self, data: memoryview, at: int, allowed: Collection[str], budget: Budget) -> None:
        self.data = data
        self.at = at
        self.allowed = allowed
        self.budget = budget
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def byte(self) -> int:
        """Read one byte."""
        self.at += 1
        return self.data[self.at - 1]

    def number(self, layout: str) -> Any:
        """Read one number of a layout of `struct`."""
        (value,) = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return value

    def content(self, layout: str) -> memoryview:
        """Read a size of a layout of `struct`, and return as many bytes without a copy."""
        size = self.number(layout)
        if size > len(self.data) - self.at:
            raise PickleProblem(DAMAGED)
        self.at += size
        return self.data[self.at - size : self.at]

    def text(self, layout: str) -> str:
        """Read a size of a layout of `struct`, and a text of as many bytes."""
        content = self.content(layout)
        self.budget.spend(text=len(content))
        return str(content, "utf-8")

    def line(self) -> str:
        """Read a name that ends with its line."""
        window = bytes(self.data[self.at : self.at + LONGEST_NAME])
        text, end, _ = window.partition(b"\n")
        if not end:
            raise PickleProblem(DAMAGED)
        self.at += len(text) + 1
        return text.decode()

    def top(self, *kinds: type) -> Any:
        """Return the value on top, which has to be of exactly one of these types."""
        value = self.stack[-1]
        if type(value) not in kinds:
            raise PickleProblem(DAMAGED)
        return value

    def pop(self, *kinds: type) -> Any:
        """Remove and return the value on top, which has to be of exactly one of these types, if any."""
        value = self.top(*kinds) if kinds else self.stack[-1]
        del self.stack[-1]
        return value

    def mark(self) -> None:
        """Begin a part of the stack."""
        self.below.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[Any]:
        """Remove and return the part of the stack since the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def push_global(self, module: str, name: str) -> None:
        """Push a global that is allowed.

        Raises:
            PickleProblem: it is another one, which is named.
        """
        wanted = f"{module}.{name}"
        if wanted not in self.allowed:
            shown = ascii(wanted[:100])[1:-1]
            raise PickleProblem(
                f"asks for {shown}, which is no part of a network (nothing of it was run); "
                "get the file from those who published it"
            )
        self.stack.append(Global(wanted))
