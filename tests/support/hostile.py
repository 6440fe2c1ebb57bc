"""Files that want something run, all memory or endless time, and what is said of each.

Most are written operation by operation, to say what no pickler would say.
"""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
from collections.abc import Callable
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


class Reduced:
    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


SHELL = named("posix.system") + text(COMMAND) + pickle.TUPLE1 + pickle.REDUCE
ORDERED = call("collections.OrderedDict")
FLOAT = storage(described())
SYSTEM = Reduced(os.system, (COMMAND,))
SCALAR, DTYPE = "numpy.core.multiarray.scalar", "numpy.dtype"
# Close to what is allowed, and what gives a way out in Python or in torch.
GLOBALS = """
builtins.eval builtins.getattr builtins.__import__ builtins.dict builtins.object __builtin__.eval
collections.OrderedDict.fromkeys copyreg._reconstructor dill._dill._create_code dnnlib.util.open_url
functools.partial importlib.import_module numpy.core.multiarray._reconstruct operator.attrgetter os.popen
pickle.loads subprocess.Popen torch.load torch.jit._serialization.load torch.nn.modules.module.Module
torch_utils.persistence.import_hook __torch__.Module torch.jit._pickle.build_intlist
""".split()  # noqa: SIM905

DAMAGED = "is damaged, cut off or not what it should be; fetch it again"
PARTS = "is made of more parts than any published network"
LIMITS = "takes more time or memory than anything published"
MISSING = "the key 'img_resolution' is missing"

BY_SENTENCE: dict[str, dict[str, bytes]] = {
    "asks for posix.system, which no such file needs (nothing of it was run); get the file from those who": {
        **{f"reduce of protocol {protocol}": pickle.dumps(SYSTEM, protocol) for protocol in range(6)},
        "reduce inside a network": weight(SHELL),
        "reduce with state": pickle.dumps(Reduced(os.system, (COMMAND,), {"a": 1})),
        "state with code": ema(ORDERED + table(__setstate__=SHELL) + b"b"),
        "payload that calls": weight(tensor(stream(SHELL))),
        "payload with a call for a storage": weight(tensor(storage(SHELL))),
        "payload with a module": weight(
            tensor(storage(many(text("module"), named("posix.system"), text("a.py"), text(SOURCE)) + b"Q"))
        ),
    },
    "asks for collections.OrderedDict.__init__": {
        "dotted name": stream(text("collections") + text("OrderedDict.__init__.__globals__") + b"\x93")
    },
    "asks for os.system": {
        "global of protocol 2": stream(b"cos\nsystem\n" + text(COMMAND) + b"\x85R", 2),
        "instance (INST)": stream(b"(" + text(COMMAND) + b"ios\nsystem\n"),
    },
    f"asks for {'a' * 100}, which": {
        "global with an endless name": stream(b"c" + b"a" * 100_000 + b"\nb\n", 2)
    },
    "asks for torch.storage._load_from_bytes": {
        "payload within a payload": weight(tensor(storage(call(LOAD, binary(FLOAT)))))
    },
    "holds no 'ema' but nothing; give the key of a network": {
        "object (OBJ)": stream(b"(" + named("collections.OrderedDict") + b"o"),
        "object with keywords (NEWOBJ_EX)": stream(named("collections.OrderedDict") + b")}\x92"),
        "key that is a tuple": stream(b"})K\x01s"),
        "calls nested 1,000 deep": stream(ORDERED[:-2] * 1000 + b"tR" * 1000),
    },
    "has something else in the place of a module": {
        "a network that is a number": ema(b"K\x01"),
        "a dict in itself": stream(b"}\x94" + text("ema") + b"h\x00s"),
    },
    "holds a tensor that reaches beyond its values": {
        "tensor beyond its storage": weight(tensor(FLOAT, offset=b"K\x01")),
        "tensor of no entries": weight(tensor(FLOAT, size=b"K\x00\x85")),
    },
    "has names or texts with special characters": {
        "global with an escape sequence": stream(text("o\ns\x1b[2J") + text("\u202esystem") + b"\x93"),
        "argument with an escape sequence": argument(b"N", name="a\x1b[2J"),
        "text with an escape sequence": argument(text("\x1b]0;title\x07")),
        "weight with an escape sequence": ema(module(table(**{"w\r\x1b[A": tensor(FLOAT)}))),
        "key with an escape sequence": stream(table(**{"\x1b[2Jema": b"N"})),
    },
    DAMAGED: {
        "another type of dill's": stream(call("dill._dill._load_type", text("CodeType"))),
        "global that is no text": stream(b"K\x01K\x02\x93"),
        "call of what a call returned": stream(ORDERED + b")R"),
        "build on a dict's class": stream(named("collections.OrderedDict") + table(a=b"K\x01") + b"b"),
        "build on a record's class": stream(named(DTYPE) + b"N" + table(a=b"N") + b"\x86b"),
        "build on a function": stream(named("_codecs.encode") + b"N" + table(function=b"N") + b"\x86b"),
        "build on a storage": weight(call(LOAD, binary(FLOAT)) + b"N" + table(length=b"K\x09") + b"\x86b"),
        "build on a tensor": weight(tensor(FLOAT) + b"N" + table(offset=b"K\x09") + b"\x86b"),
        "build on a dict": stream(table(ema=b"N") + table(__class__=b"N") + b"b"),
        "build with slots": stream(b"}" + many(b"N", table(__class__=b"N")) + b"b"),
        "extension": stream(pickle.EXT1 + b"\x7f" + text(COMMAND) + b"\x85R"),
        "persistent id": stream(text(COMMAND) + b"Q"),
        "storage elsewhere": weight(
            call(
                REBUILD,
                many(text("storage"), many(text("int8"), b"K\x01"), *[b"K\x01"] * 3) + b"Q",
                b"K\x00",
                ONE,
                ONE,
            )
        ),
        "storage counted by True": weight(tensor(storage(described(count=b"\x88")))),
        "buffer out of band": stream(pickle.NEXT_BUFFER, 5),
        "payload that is a class": weight(tensor(storage(named("torch.FloatStorage")))),
        "payload with a view": weight(tensor(storage(described(view=many(text("1"), b"K\x00", b"K\x01"))))),
        "payload of today's format": weight(tensor(saved(torch.zeros(1)))),
        "payload cut off": weight(tensor(FLOAT[:-1])),
        "payload with more behind it": weight(tensor(FLOAT + b"\x00")),
        "tensor of more entries": weight(tensor(FLOAT, size=b"K\x02\x85")),
        "tensor of negative size": weight(tensor(FLOAT, size=b"J\xff\xff\xff\xff\x85")),
        "tensor of huge stride": weight(tensor(FLOAT, stride=long(2**2000) + b"\x85")),
        "source of a type": stream(call(PERSISTENT, table(src=text(SOURCE)))),
        "scalar of objects": argument(
            call(SCALAR, call(DTYPE, text("O8")), binary(b"\xef\xbe\xad\xde\0\0\0\0"))
        ),
        "codec of another kind": argument(
            call(SCALAR, call(DTYPE, text("f8")), call("_codecs.encode", text(COMMAND), text("zip")))
        ),
        "argument that is a record": argument(call(DTYPE, text("f8"))),
        "long of text": stream(b"L" + b"9" * 100_000 + b"L\n", 2),
        "lists nested 100,000 deep": stream(b"]" * 100_000 + b"a" * 99_999),
        "protocol 255": stream(b"}", 255),
        "a number": stream(b"K\x01"),
        "empty": b"",
        "a page of the web": b"<!DOCTYPE html><title>404</title>",
        "a ZIP archive": saved({"ema": torch.zeros(1)}),
        "noise behind a header": b"\x80\x04" + random.Random(1).randbytes(10_000),
    },
}
HOSTILE = {
    name: (content, sentence) for sentence, files in BY_SENTENCE.items() for name, content in files.items()
} | {
    name: (stream(call(name, text("echo"))), f"asks for {name}, which no such file needs") for name in GLOBALS
}
# What the reader lets pass, because it harms nobody, and the architecture does not.
REFUSED_LATER = {
    "argument of 10^9": (argument(b"J\x00\xca\x9a\x3b"), "that no published one has"),
    "list with 10^9": (argument(b"]J\x00\xca\x9a\x3ba"), "that no published one has"),
    "argument of 1 MB": (argument(text("a" * 2**20)), "that no published one has"),
    "source of a module": (ema(module()), MISSING),
    "parameters in parameters": (
        weight(named("torch._utils._rebuild_parameter") * 999 + tensor(FLOAT) + b"\x85R" * 999),
        MISSING,
    ),
}


def doubled(start: bytes, pair: bytes) -> bytes:
    """`start`, then 60 times a pair of what came before, which `pair` makes of the two on the stack."""
    steps = (b"h" + bytes([index]) for index in range(60))
    return start + b"\x940" + b"".join(pair.replace(b"?", step) + b"\x940" for step in steps) + b"h\x3c"


TUPLES = doubled(b")", b"??\x86")


def items(count: int, value: Callable[[int], bytes]) -> bytes:
    """A dict of so many entries with names of their own."""
    return b"}(" + b"".join(text(f"a{index}") + value(index) for index in range(count)) + b"u"


def shared_name() -> bytes:
    """A long name that 80,000 modules give to the same module."""
    modules = items(80_000, lambda _: module(modules=b"}h\x00h\x01s"))
    return stream(text("n" * 10_000) + b"\x940" + module() + b"\x940" + table(ema=module(modules=modules)))


# Small files that want all memory, or endless time.
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "endless small objects": (lambda: stream(b"](" + b"}\x94" * 10**7 + b"e"), LIMITS),
    "text of 4 GB": (lambda: stream(pickle.BINUNICODE + b"\xff" * 4), LIMITS),
    "bytes of 4 EB": (lambda: stream(pickle.BINBYTES8 + b"\xff" * 7 + b"\x3f"), LIMITS),
    "a memo of 4 billion": (lambda: b"\x80\x02}r\xff\xff\xff\xff.", LIMITS),
    "tuples of tuples as a key": (lambda: stream(b"}" + TUPLES + b"K\x01s"), LIMITS),
    "a key nested 2,000,000 deep": (lambda: stream(b"})" + b"\x85" * 2_000_000 + b"Ns"), LIMITS),
    "integers that collide as keys": (
        lambda: stream(b"}(" + b"".join(long(n * (2**61 - 1)) + b"N" for n in range(1, 100_000)) + b"u"),
        LIMITS,
    ),
    "tuples of tuples as an argument": (lambda: argument(TUPLES), LIMITS),
    "modules of modules": (lambda: ema(doubled(module(), module(modules=table(a=b"?", b=b"?")))), PARTS),
    "a name shared by 80,000 modules": (shared_name, PARTS),
    "a module in itself": (
        lambda: ema(module(modules=b"}\x94" + text("a") + module(modules=b"h\x00") + b"s")),
        PARTS,
    ),
    "3 GB that are nowhere": (
        lambda: b"\x80\x04" + pickle.BINBYTES8 + struct.pack("<Q", 3 * 2**30),
        "has 3,221,225,483 bytes, more than anything published",
    ),
}
