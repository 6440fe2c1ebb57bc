"""Files that want something run, all memory or endless time, and what is said of each."""

from __future__ import annotations

import os
import pickle
import random
import struct
from collections.abc import Callable
from typing import Any

import torch
from pickle_operations import (
    COMMAND,
    FLOAT,
    LOAD,
    ONE,
    ORDERED,
    PERSISTENT,
    REBUILD,
    SHELL,
    SOURCE,
    argument,
    binary,
    call,
    described,
    ema,
    long,
    many,
    module,
    named,
    saved,
    storage,
    stream,
    table,
    tensor,
    text,
    weight,
)

DAMAGED = "is damaged, cut off or not what it should be; fetch it again"
NOTHING = "holds no 'ema' but nothing; give the key of a network"
BEYOND = "holds a tensor that reaches beyond its numbers"
NO_MODULE = "has something else in the place of a module"
SPECIAL = "has names or texts with special characters"
PARTS = "is made of more parts than any published network"
LIMITS = "takes more time or memory than anything published"
UNPUBLISHED = "that no published one has"
MISSING = "the key 'img_resolution' is missing"
ASKS = "asks for posix.system, which no such file needs (nothing of it was run); get the file from those who"


class Reduced:
    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


GLOBALS = """
posix.system nt.system os.system os.popen os.execv subprocess.Popen subprocess.check_output pty.spawn
builtins.eval builtins.exec builtins.compile builtins.getattr builtins.__import__ builtins.open builtins.dict
builtins.object __builtin__.eval importlib.import_module runpy.run_path code.interact timeit.timeit
functools.partial operator.attrgetter operator.methodcaller copyreg._reconstructor copyreg.add_extension
pickle.loads marshal.loads types.FunctionType types.CodeType ctypes.CDLL socket.create_connection shutil.rmtree
webbrowser.open sys.setrecursionlimit collections.defaultdict collections.OrderedDict.fromkeys numpy.load
numpy.core.multiarray._reconstruct numpy.f2py.compile torch.load torch.hub.load torch.FloatStorage
torch.jit._serialization.load torch._utils._rebuild_parameter_with_state torch.nn.modules.module.Module
torch_utils.persistence.import_hook dnnlib.util.call_func_by_name dnnlib.util.open_url dill._dill._create_code
__torch__.Module torch.jit._pickle.build_intlist
""".split()  # noqa: SIM905

SYSTEM = Reduced(os.system, (COMMAND,))
SCALAR, DTYPE = "numpy.core.multiarray.scalar", "numpy.dtype"

BY_SENTENCE: dict[str, dict[str, bytes]] = {
    ASKS: {
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
    "asks for importlib.import_module": {
        "call of a call": stream(call("importlib.import_module", text("os")) + text("system") + b"\x85R")
    },
    "asks for collections.OrderedDict.__init__": {
        "dotted name": stream(text("collections") + text("OrderedDict.__init__.__globals__") + b"\x93")
    },
    "asks for os.system": {
        "global of protocol 2": stream(b"cos\nsystem\n" + text(COMMAND) + b"\x85R", 2),
        "instance (INST)": stream(b"(" + text(COMMAND) + b"ios\nsystem\n"),
    },
    "asks for subprocess.Popen": {
        "object of a class (NEWOBJ)": stream(named("subprocess.Popen") + text(COMMAND) + b"\x85\x81")
    },
    "asks for torch.storage._load_from_bytes": {
        "payload within a payload": weight(tensor(storage(call(LOAD, binary(FLOAT)))))
    },
    NOTHING: {
        "object (OBJ)": stream(b"(" + named("collections.OrderedDict") + b"o"),
        "object with keywords (NEWOBJ_EX)": stream(named("collections.OrderedDict") + b")}\x92"),
        "key that is a tuple": stream(b"})K\x01s"),
        "an empty dict": stream(b"}"),
    },
    NO_MODULE: {
        "a network that is a number": ema(b"K\x01"),
        "a dict in itself": stream(b"}\x94" + text("ema") + b"h\x00s"),
    },
    MISSING: {"source of a module": ema(module())},
    BEYOND: {
        "tensor beyond its storage": weight(tensor(FLOAT, offset=b"K\x01")),
        "tensor of no entries": weight(tensor(FLOAT, size=b"K\x00\x85")),
    },
    UNPUBLISHED: {
        "argument of 10^9": argument(b"J\x00\xca\x9a\x3b"),
        "list with 10^9": argument(b"]J\x00\xca\x9a\x3ba"),
        "argument of 1 MB": argument(text("a" * 2**20)),
    },
    SPECIAL: {
        "global with an escape sequence": stream(text("o\ns\x1b[2J") + text("\u202esystem") + b"\x93"),
        "argument with an escape sequence": argument(b"N", name="a\x1b[2J"),
        "text with an escape sequence": argument(text("\x1b]0;title\x07")),
        "weight with an escape sequence": ema(module(table(**{"w\r\x1b[A": tensor(FLOAT)}))),
        "key with an escape sequence": stream(table(**{"\x1b[2Jema": b"N"})),
    },
    DAMAGED: {
        "another type of dill's": stream(call("dill._dill._load_type", text("CodeType"))),
        "global with an endless name": stream(b"c" + b"a" * 100_000, 2),
        "global that is no text": stream(b"K\x01K\x02\x93"),
        "call of a text": stream(text(COMMAND) + b")R"),
        "call with no tuple": stream(named("collections.OrderedDict") + b"]R"),
        "build on a dict's class": stream(named("collections.OrderedDict") + table(a=b"K\x01") + b"b"),
        "build on a record's class": stream(named(DTYPE) + b"N" + table(a=b"N") + b"\x86b"),
        "build on a function": stream(named("_codecs.encode") + b"N" + table(function=b"N") + b"\x86b"),
        "build on a storage": weight(call(LOAD, binary(FLOAT)) + b"N" + table(length=b"K\x09") + b"\x86b"),
        "build on a tensor": weight(tensor(FLOAT) + b"N" + table(offset=b"K\x09") + b"\x86b"),
        "build on a dict": stream(table(ema=b"N") + table(__class__=b"N") + b"b"),
        "extension 1": stream(pickle.EXT1 + b"\x7f" + text(COMMAND) + b"\x85R"),
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
        "append to a record": stream(ORDERED + b"K\x01a"),
        "item of a text": stream(text("a") + b"K\x01K\x02s"),
        "item with an odd end": stream(b"}(" + text("a") + b"u"),
        "payload that is a class": weight(tensor(storage(named("torch.FloatStorage")))),
        "payload with a view": weight(tensor(storage(described(view=many(text("1"), b"K\x00", b"K\x01"))))),
        "payload of today's format": weight(tensor(saved(torch.zeros(1)))),
        "payload that is empty": weight(tensor(b"")),
        "payload cut off": weight(tensor(FLOAT[:-1])),
        "payload with more behind it": weight(tensor(FLOAT + b"\x00")),
        "payload that is text": weight(call(LOAD, text("a"))),
        "tensor of more entries": weight(tensor(FLOAT, size=b"K\x02\x85")),
        "tensor of negative size": weight(tensor(FLOAT, size=b"J\xff\xff\xff\xff\x85")),
        "tensor of huge stride": weight(tensor(FLOAT, stride=long(2**2000) + b"\x85")),
        "parameters in parameters": weight(
            named("torch._utils._rebuild_parameter") * 999 + b")R" + b"\x85R" * 998
        ),
        "source of a type": stream(call(PERSISTENT, table(src=text(SOURCE)))),
        "scalar of objects": argument(
            call(SCALAR, call(DTYPE, text("O8")), binary(b"\xef\xbe\xad\xde\0\0\0\0"))
        ),
        "codec of another kind": argument(
            call(SCALAR, call(DTYPE, text("f8")), call("_codecs.encode", text(COMMAND), text("zip")))
        ),
        "argument that is a record": argument(call(DTYPE, text("f8"))),
        "get without a put": stream(b"h\x01"),
        "tuple of too few": stream(b"K\x01\x87"),
        "end inside a mark": stream(b"}(") + b".",
        "long of text": stream(b"L" + b"9" * 100_000 + b"L\n", 2),
        "long of a negative size": stream(b"\x8b\xff\xff\xff\xff"),
        "bytes of 16 EB": stream(pickle.BINBYTES8 + b"\xff" * 8),
        "frame of 8 EB": stream(pickle.FRAME + b"\xff" * 7 + b"\x7f"),
        "text that is no UTF-8": stream(pickle.SHORT_BINUNICODE + b"\x01\xff"),
        "lists nested 100,000 deep": stream(b"]" * 100_000 + b"a" * 99_999),
        "calls nested 1,000 deep": stream(ORDERED[:-2] * 1000 + b"\x85R" * 1000),
        "protocol 255": stream(b"}", 255),
        "a number": stream(b"K\x01"),
        "empty": b"",
        "a page of the web": b"<!DOCTYPE html><title>404</title>",
        "a ZIP archive": saved({"ema": torch.zeros(1)}),
        "noise": random.Random(0).randbytes(10_000),
    },
}
HOSTILE = {
    name: (content, sentence) for sentence, files in BY_SENTENCE.items() for name, content in files.items()
}


def doubled(start: bytes, pair: bytes) -> bytes:
    """`start`, then 60 times a pair of what came before, which `pair` makes of the two on the stack."""
    steps = (b"h" + bytes([index]) for index in range(60))
    return start + b"\x940" + b"".join(pair.replace(b"?", step) + b"\x940" for step in steps) + b"h\x3c"


TUPLES = doubled(b")", b"??\x86")


def items(count: int, value: Callable[[int], bytes]) -> bytes:
    """A dict of so many entries with names of their own."""
    return b"}(" + b"".join(text(f"a{index}") + value(index) for index in range(count)) + b"u"


def wide_modules() -> bytes:
    """Modules that all hold the same dict of many entries."""
    modules = items(2000, lambda _: module(parameters=b"h\x00"))
    return stream(items(100_000, lambda _: b"N") + b"\x940" + table(ema=module(modules=modules)))


def shared_name() -> bytes:
    """A long name that 80,000 modules give to the same module."""
    modules = items(80_000, lambda _: module(modules=b"}h\x00h\x01s"))
    return stream(text("n" * 10_000) + b"\x940" + module() + b"\x940" + table(ema=module(modules=modules)))


def large(value: bytes, times: int) -> bytes:
    """A text that takes 4 bytes a character in memory, many times."""
    content = b"a" * 4_000_000 + "\N{PILE OF POO}".encode()
    return (pickle.BINUNICODE + struct.pack("<I", len(content)) + content + value) * times


# Small files that want all memory, or endless time.
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "sets": (lambda: stream(b"\x8f" * 5_000_000), LIMITS),
    "endless small objects": (lambda: stream(b"](" + b"}\x94" * 10**7 + b"e"), LIMITS),
    "dicts with an entry": (lambda: stream(text("a") + b"\x94" + b"}h\x00h\x00s" * 2_500_000), LIMITS),
    "marks": (lambda: stream(b"(N" * 5_000_000), DAMAGED),
    "wide text": (lambda: stream(large(b"", 50)), LIMITS),
    "a key of 4 MB again and again": (
        lambda: stream(large(b"\x940}" + b"h\x00Ns" * 10**5, 1)),
        "no 'ema' but aaa",
    ),
    "tuples of tuples as a key": (lambda: stream(b"}" + TUPLES + b"K\x01s"), LIMITS),
    "a key nested 2,000,000 deep": (lambda: stream(b"})" + b"\x85" * 2_000_000 + b"Ns"), LIMITS),
    "integers that collide as keys": (
        lambda: stream(b"}(" + b"".join(long(n * (2**61 - 1)) + b"N" for n in range(1, 100_000)) + b"u"),
        LIMITS,
    ),
    "tuples of tuples as an argument": (lambda: argument(TUPLES), LIMITS),
    "modules of modules": (lambda: ema(doubled(module(), module(modules=table(a=b"?", b=b"?")))), PARTS),
    "modules with the same entries": (wide_modules, PARTS),
    "a name shared by 80,000 modules": (shared_name, PARTS),
    "a module in itself": (
        lambda: ema(module(modules=b"}\x94" + text("a") + module(modules=b"h\x00") + b"s")),
        PARTS,
    ),
    "payloads with many operations": (
        lambda: ema(module(items(200, lambda _: tensor(storage(b"}0" * 20_000 + described()))))),
        MISSING,
    ),
    "bytes of 4 EB": (lambda: stream(pickle.BINBYTES8 + b"\xff" * 7 + b"\x3f"), LIMITS),
    "byte array of 1 TB": (lambda: stream(pickle.BYTEARRAY8 + b"\0\0\0\0\0\x01\0\0", 5), LIMITS),
    "3 GB that are nowhere": (
        lambda: b"\x80\x04" + pickle.BINBYTES8 + struct.pack("<Q", 3 * 2**30),
        "has 3,221,225,483 bytes, more than anything published",
    ),
}
