"""Pickles read as data: what one asks to be built or called becomes a record of the request.

`pickle` imports what a file names and calls it, so that whoever wrote the file decides what runs. Nothing
here imports, calls, or sets an attribute of anything: a stream becomes numbers, texts, bytes, tuples, lists,
sets, dicts, and records. Memory and time are bounded by a budget, whatever the stream holds. The operations
are those of protocols 2 to 5 (PEP 307, PEP 3154) that torch's networks are made of.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Collection
from typing import Any

from gdd.networks.pickle_machine import DAMAGED, Budget, Global, Machine, PickleProblem, Record

PROTOCOLS = (2, 3, 4, 5)
LONGEST_KEY = 256  # characters; how long keys take to compare is not bounded by the number of operations
PERSISTENT = "persistent id"  # the name of the record of an object that the stream keeps elsewhere


def read_pickle(
    data: memoryview,
    allowed: Collection[str],
    budget: Budget,
    start: int = 0,
    persistent_ids: bool = False,
) -> tuple[Any, int]:
    """Return the value of the stream that begins at `start`, and where it ends.

    Args:
        data: bytes; the bytes inside the value are slices of it, not copies.
        allowed: the globals, as `module.name`, that the stream may name.
        budget: what the stream may cost; is reduced.
        start: in bytes.
        persistent_ids: whether the stream may refer to objects kept elsewhere.

    Raises:
        PickleProblem: the stream is damaged, names another global, or is beyond the budget.
    """
    begin = bytes(data[start : start + 2])
    if begin[:1] != pickle.PROTO or len(begin) < 2:
        raise PickleProblem("is no pickle of protocol 2 to 5; check that it is the right file")
    if begin[1] not in PROTOCOLS:
        raise PickleProblem(f"is a pickle of protocol {begin[1]}; only 2 to 5 are known here")
    machine = Machine(data, start + 2, allowed, budget)
    try:
        while (code := machine.byte()) != pickle.STOP[0]:
            budget.spend(operations=1)
            operation = _OPERATIONS.get(code)
            if operation is None or (operation is _persistent and not persistent_ids):
                raise PickleProblem(
                    f"has the pickle operation 0x{code:02x}, unlike a network; fetch it again or check it"
                )
            operation(machine)
        return machine.pop(), machine.at
    except (IndexError, KeyError, UnicodeDecodeError, struct.error):
        raise PickleProblem(DAMAGED) from None


Operation = Callable[[Machine], None]


def _constant(value: Any) -> Operation:
    return lambda machine: machine.stack.append(value)


def _number(layout: str) -> Operation:
    return lambda machine: machine.stack.append(machine.number(layout))


def _text(layout: str) -> Operation:
    return lambda machine: machine.stack.append(machine.text(layout))


def _bytes(layout: str) -> Operation:
    return lambda machine: machine.stack.append(machine.content(layout))


def _long(machine: Machine) -> None:
    machine.stack.append(int.from_bytes(machine.content("<B"), "little", signed=True))


def _tuple(size: int) -> Operation:
    def push(machine: Machine) -> None:
        items = [machine.pop() for _ in range(size)]
        machine.stack.append(tuple(reversed(items)))

    return push


def _tuple_to_mark(machine: Machine) -> None:
    items = machine.pop_to_mark()
    machine.stack.append(tuple(items))


def _append(machine: Machine) -> None:
    value = machine.pop()
    machine.top(list).append(value)


def _extend(machine: Machine) -> None:
    items = machine.pop_to_mark()
    machine.top(list).extend(items)


def _add(machine: Machine) -> None:
    items = machine.pop_to_mark()
    machine.top(set).update(_key(item) for item in items)


def _set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    _entries(machine)[_key(key)] = value


def _set_items(machine: Machine) -> None:
    items = machine.pop_to_mark()
    entries = _entries(machine)
    if len(items) % 2:
        raise PickleProblem(DAMAGED)
    for key, value in zip(items[::2], items[1::2], strict=True):
        entries[_key(key)] = value


def _entries(machine: Machine) -> dict[str, Any]:
    holder = machine.top(dict, Record)
    entries: dict[str, Any] = holder.items if type(holder) is Record else holder
    return entries


def _key(value: Any) -> str:
    # Text alone: tuples and numbers can be chosen so that hashing them, or telling them apart, takes forever.
    if type(value) is not str or len(value) > LONGEST_KEY:
        raise PickleProblem("has keys that are no short texts, unlike a network; check its origin")
    return value


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.pop()
    else:
        machine.pop_to_mark()


def _pop_mark(machine: Machine) -> None:
    machine.pop_to_mark()


def _recall(layout: str) -> Operation:
    return lambda machine: machine.stack.append(machine.memo[machine.number(layout)])


def _remember(layout: str) -> Operation:
    def remember(machine: Machine) -> None:
        machine.memo[machine.number(layout)] = machine.stack[-1]

    return remember


def _remember_next(machine: Machine) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _global(machine: Machine) -> None:
    machine.push_global(machine.line(), machine.line())


def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(str), machine.pop(str)
    machine.push_global(module, name)


def _call(machine: Machine) -> None:
    arguments, called = machine.pop(tuple), machine.pop(Global)
    machine.stack.append(Record(called.name, arguments))


def _set_state(machine: Machine) -> None:
    state = machine.pop()
    machine.top(Record).state = state


def _persistent(machine: Machine) -> None:
    machine.stack.append(Record(PERSISTENT, (machine.pop(),)))


def _skip_frame(machine: Machine) -> None:
    machine.number("<Q")


_OPERATIONS: dict[int, Operation] = {
    code[0]: operation
    for code, operation in {
        pickle.FRAME: _skip_frame,
        pickle.MARK: Machine.mark,
        pickle.POP: _pop,
        pickle.POP_MARK: _pop_mark,
        pickle.NONE: _constant(None),
        pickle.NEWTRUE: _constant(True),
        pickle.NEWFALSE: _constant(False),
        pickle.BININT: _number("<i"),
        pickle.BININT1: _number("<B"),
        pickle.BININT2: _number("<H"),
        pickle.BINFLOAT: _number(">d"),
        pickle.LONG1: _long,
        pickle.SHORT_BINUNICODE: _text("<B"),
        pickle.BINUNICODE: _text("<I"),
        pickle.BINUNICODE8: _text("<Q"),
        pickle.SHORT_BINBYTES: _bytes("<B"),
        pickle.BINBYTES: _bytes("<I"),
        pickle.BINBYTES8: _bytes("<Q"),
        pickle.EMPTY_TUPLE: _constant(()),
        pickle.TUPLE1: _tuple(1),
        pickle.TUPLE2: _tuple(2),
        pickle.TUPLE3: _tuple(3),
        pickle.TUPLE: _tuple_to_mark,
        pickle.EMPTY_LIST: lambda machine: machine.stack.append([]),
        pickle.APPEND: _append,
        pickle.APPENDS: _extend,
        pickle.EMPTY_SET: lambda machine: machine.stack.append(set()),
        pickle.ADDITEMS: _add,
        pickle.EMPTY_DICT: lambda machine: machine.stack.append({}),
        pickle.SETITEM: _set_item,
        pickle.SETITEMS: _set_items,
        pickle.BINGET: _recall("<B"),
        pickle.LONG_BINGET: _recall("<I"),
        pickle.BINPUT: _remember("<B"),
        pickle.LONG_BINPUT: _remember("<I"),
        pickle.MEMOIZE: _remember_next,
        pickle.GLOBAL: _global,
        pickle.STACK_GLOBAL: _stack_global,
        pickle.REDUCE: _call,
        pickle.NEWOBJ: _call,
        pickle.BUILD: _set_state,
        pickle.BINPERSID: _persistent,
    }.items()
}
