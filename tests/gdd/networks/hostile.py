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
    FLOATS,
    ORDERED,
    SHELL,
    SOURCE,
    SYSTEM,
    binary,
    call,
    described,
    many,
    module,
    named,
    network,
    saved,
    storage,
    stream,
    table,
    tensor,
    text,
)

DAMAGED = "is damaged, cut off or not what it should be; fetch it again"
NOTHING = "holds no 'ema' but nothing; give the key of a network"
BEYOND = "holds a tensor that reaches beyond its numbers"
NO_MODULE = "has something else in the place of a module"
SPECIAL = "has names or texts with special characters"
PARTS = "is made of more parts than any published network"
LIMITS = "takes more time or memory than anything published"
UNPUBLISHED = "that no published one has"


def asks(name: str) -> str:
    return f"asks for {name}, which no such file needs (nothing of it was run); get the file from those who"


ASKS = asks("posix.system")


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

# Networks that are damaged or would have something run.
HOSTILE: dict[str, tuple[bytes, str]] = {
    **{
        f"reduce of protocol {protocol}": (pickle.dumps(Reduced(os.system, (COMMAND,)), protocol), ASKS)
        for protocol in range(6)
    },
    "reduce inside a network": (network(SHELL), ASKS),
    "reduce with state": (pickle.dumps(Reduced(os.system, (COMMAND,), {"a": 1})), ASKS),
    "state with code": (stream(table(ema=ORDERED + table(__setstate__=SHELL) + b"b")), ASKS),
    "payload that calls": (network(tensor(stream(SHELL))), ASKS),
    "payload with a call for a storage": (network(tensor(storage(SHELL))), ASKS),
    "payload with a module": (
        network(tensor(storage(many(text("module"), SYSTEM, text("a.py"), text(SOURCE)) + b"Q"))),
        ASKS,
    ),
    "getattr chain": (
        stream(call("builtins.getattr", call("importlib.import_module", text("os")), text("system"))),
        asks("builtins.getattr"),
    ),
    "dotted name": (
        stream(named("collections", "OrderedDict.__init__.__globals__")),
        asks("collections.OrderedDict.__init__.__globals__"),
    ),
    "another type of dill's": (stream(call("dill._dill._load_type", text("CodeType"))), DAMAGED),
    "global of protocol 2": (stream(b"cos\nsystem\n" + text(COMMAND) + b"\x85R", 2), asks("os.system")),
    "instance (INST)": (stream(b"(" + text(COMMAND) + b"ios\nsystem\n"), asks("os.system")),
    "object of a class (NEWOBJ)": (
        stream(named("subprocess", "Popen") + text(COMMAND) + b"\x85\x81"),
        asks("subprocess.Popen"),
    ),
    "payload within a payload": (
        network(tensor(storage(call("torch.storage._load_from_bytes", binary(FLOATS))))),
        asks("torch.storage._load_from_bytes"),
    ),
    "object (OBJ)": (stream(b"(" + named("collections", "OrderedDict") + b"o"), NOTHING),
    "object with keywords (NEWOBJ_EX)": (stream(named("collections", "OrderedDict") + b")}\x92"), NOTHING),
    "key that is a tuple": (stream(b"})K\x01s"), NOTHING),
    "an empty dict": (stream(b"}"), NOTHING),
    "a network that is a number": (stream(table(ema=b"K\x01")), NO_MODULE),
    "a dict in itself": (stream(b"}\x94" + text("ema") + b"h\x00s"), NO_MODULE),
    "source of a module": (stream(table(ema=module())), "the key 'img_resolution' is missing"),
    "tensor beyond its storage": (network(tensor(FLOATS, size=b"K\x01\x85", offset=b"K\x01")), BEYOND),
    "tensor of more entries": (network(tensor(FLOATS, size=b"K\x02\x85")), DAMAGED),
    "tensor repeated by its stride": (
        network(tensor(FLOATS, size=b"K\x01K\x01K\x00\x87", stride=b"K\x00K\x00K\x00\x87")),
        BEYOND,
    ),
    "storage counted by True": (
        network(tensor(storage(described(b"\x88"), b"]" + text("0") + b"a", bytes(12)))),
        DAMAGED,
    ),
    "argument of 10^9": (network(b"N", _init_kwargs=table(num_blocks=b"J\x00\xca\x9a\x3b")), UNPUBLISHED),
    "list with 10^9": (network(b"N", _init_kwargs=table(channel_mult=b"]J\x00\xca\x9a\x3ba")), UNPUBLISHED),
    "argument of 1 MB": (network(b"N", _init_kwargs=table(model_type=text("a" * 2**20))), UNPUBLISHED),
    "global of unprintable text": (stream(named("o\ns\x1b[2J", "\u202esystem")), SPECIAL),
    "argument with an escape sequence": (network(b"N", _init_kwargs=table(**{"a\x1b[2J": b"N"})), SPECIAL),
    "text with an escape sequence": (
        network(b"N", _init_kwargs=table(model_type=text("\x1b]0;title\x07"))),
        SPECIAL,
    ),
    "weight with an escape sequence": (
        stream(table(ema=module(table(**{"weight\r\x1b[A": tensor(FLOATS)})))),
        SPECIAL,
    ),
    "key with an escape sequence": (stream(table(**{"\x1b[2Jema": b"N"})), SPECIAL),
}
HOSTILE |= {
    name: (content, DAMAGED)
    for name, content in {
        "global with an endless name": stream(b"c" + b"a" * 100_000, 2),
        "global that is no text": stream(b"K\x01K\x02\x93"),
        "call of a text": stream(text(COMMAND) + b")R"),
        "call of what a call returned": stream(ORDERED + b")R"),
        "call with no tuple": stream(named("collections", "OrderedDict") + b"]R"),
        "build on a dict's class": stream(named("collections", "OrderedDict") + table(a=b"K\x01") + b"b"),
        "build on a module's class": stream(
            named("torch.nn.modules.container", "Sequential") + b"N" + table(a=b"N") + b"\x86b"
        ),
        "build on a function": stream(named("_codecs", "encode") + b"N" + table(function=b"N") + b"\x86b"),
        "build on a storage": stream(
            table(
                ema=module(
                    table(
                        a=call(
                            "torch._utils._rebuild_tensor_v2",
                            call("torch.storage._load_from_bytes", binary(FLOATS))
                            + b"N"
                            + table(length=b"M\xe8\x03")
                            + b"\x86b",
                        )
                    )
                )
            )
        ),
        "build on a dict": stream(table(ema=b"N") + table(__class__=b"N") + b"b"),
        "build with slots": stream(b"}" + many(b"N", table(__class__=b"N")) + b"b"),
        "extension 1": stream(pickle.EXT1 + b"\x7f" + text(COMMAND) + b"\x85R"),
        "extension 4": stream(pickle.EXT4 + b"\x7f\x00\x00\x00" + text(COMMAND) + b"\x85R"),
        "persistent id": stream(text(COMMAND) + b"Q"),
        "persistent id of protocol 0": stream(b"Psome\n"),
        "storage elsewhere": network(
            call(
                "torch._utils._rebuild_tensor_v2",
                many(text("storage"), many(text("float32"), b"K\x04"), text("0"), b"N", b"K\x01") + b"Q",
                *(b"K\x00", b"K\x01\x85", b"K\x01\x85"),
            )
        ),
        "buffer out of band": stream(pickle.NEXT_BUFFER, 5),
        "append to a record": stream(ORDERED + b"K\x01a"),
        "extend a text": stream(text("a") + b"(K\x01e"),
        "add to a list": stream(b"](K\x01\x90"),
        "item of a text": stream(text("a") + b"K\x01K\x02s"),
        "item with an odd end": stream(b"}(" + text("a") + b"u"),
        "key that is a list": stream(b"}]K\x01s"),
        "payload that is a class": network(tensor(storage(named("torch", "FloatStorage")))),
        "payload with a view": network(
            tensor(storage(described(b"K\x01", many(text("1"), b"K\x00", b"K\x01"))))
        ),
        "payload of today's format": network(tensor(saved(torch.zeros(1)))),
        "payload that is empty": network(tensor(b"")),
        "payload cut off": network(tensor(FLOATS[:-1])),
        "payload with more behind it": network(tensor(FLOATS + b"\x00")),
        "payload that is text": network(
            call("torch._utils._rebuild_tensor_v2", call("torch.storage._load_from_bytes", text("a")))
        ),
        "tensor of negative size": network(tensor(FLOATS, size=b"J\xff\xff\xff\xff\x85")),
        "tensor of nested size": network(tensor(FLOATS, size=b"K\x01\x85\x85")),
        "tensor of a true size": network(tensor(FLOATS, size=b"\x88\x85")),
        "tensor of huge stride": network(tensor(FLOATS, stride=b"\x8a\xff" + b"\x7f" * 255 + b"\x85")),
        "parameters in parameters": network(
            named("torch._utils", "_rebuild_parameter") * 1000 + b")R" + b"\x85R" * 999
        ),
        "source of a type": stream(
            call("torch_utils.persistence._reconstruct_persistent_obj", table(src=text(SOURCE)))
        ),
        "scalar of objects": network(
            b"N",
            _init_kwargs=table(
                a=call(
                    "numpy.core.multiarray.scalar",
                    call("numpy.dtype", text("O8"), b"\x89", b"\x88"),
                    binary(b"\xef\xbe\xad\xde\0\0\0\0"),
                )
            ),
        ),
        "codec of another kind": network(
            b"N",
            _init_kwargs=table(
                a=call(
                    "numpy.core.multiarray.scalar",
                    call("numpy.dtype", text("f8")),
                    call("_codecs.encode", text(COMMAND), text("zip")),
                )
            ),
        ),
        "argument that is a record": network(b"N", _init_kwargs=table(a=call("numpy.dtype", text("f8")))),
        "get without a put": stream(b"h\x01"),
        "pop too much": stream(b"00"),
        "tuple of too few": stream(b"K\x01\x87"),
        "end without a value": stream(b""),
        "end inside a mark": stream(b"}(") + b".",
        "long of text": stream(b"L" + b"9" * 100_000 + b"L\n", 2),
        "integer of text": stream(b"I" + b"9" * 100_000 + b"\n", 2),
        "long of a negative size": stream(b"\x8b\xff\xff\xff\xff"),
        "bytes of 16 EB": stream(pickle.BINBYTES8 + b"\xff" * 8),
        "frame of 8 EB": stream(pickle.FRAME + b"\xff" * 7 + b"\x7f"),
        "text that is no UTF-8": stream(pickle.SHORT_BINUNICODE + b"\x01\xff"),
        "lists nested 100,000 deep": stream(b"]" * 100_000 + b"a" * 99_999),
        "calls nested 1,000 deep": stream(ORDERED[:-2] * 1000 + b"\x85R" * 1000),
        "protocol 255": stream(b"}", 255),
        "a list": stream(b"]"),
        "a text": stream(text("ema")),
        "a number": stream(b"K\x01"),
        "empty": b"",
        "one byte": b"\x80",
        "a page of the web": b"<!DOCTYPE html><title>404</title>",
        "a ZIP archive": saved({"ema": torch.zeros(1)}),
        "zeros": bytes(10_000),
        "noise": random.Random(0).randbytes(10_000),
        "noise behind a header": b"\x80\x04" + random.Random(1).randbytes(10_000),
    }.items()
}


def doubled(start: bytes, pair: bytes) -> bytes:
    """`start`, then 60 times a pair of what came before, which `pair` makes of the two on the stack."""
    steps = (b"h" + bytes([index]) for index in range(60))
    return start + b"\x940" + b"".join(pair.replace(b"?", step) + b"\x940" for step in steps) + b"h\x3c"


TUPLES = doubled(b")", b"??\x86")
LISTS = doubled(b"]", b"](??e")


def long(value: int) -> bytes:
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return pickle.LONG1 + bytes([len(content)]) + content


def wide_modules() -> bytes:
    """Modules that all hold the same dict of many entries."""
    entries = b"".join(text(f"a{index}") + b"N" for index in range(100_000))
    children = b"".join(text(f"m{index}") + module(parameters=b"h\x00") for index in range(2000))
    return stream(b"}(" + entries + b"u\x940" + table(ema=module(modules=b"}(" + children + b"u")))


def shared_name() -> bytes:
    """A long name that 80,000 modules give to the same module."""
    name = text("n" * 10_000) + b"\x940" + module() + b"\x940"
    children = b"".join(text(f"m{index}") + module(modules=b"}h\x00h\x01s") for index in range(80_000))
    return stream(name + table(ema=module(modules=b"}(" + children + b"u")))


def many_payloads() -> bytes:
    nested = storage(b"}0" * 20_000 + described(b"K\x01"), b"]" + text("0") + b"a", struct.pack("<qf", 1, 0))
    weights = b"".join(text(f"a{index}") + tensor(nested) for index in range(200))
    return stream(table(ema=module(b"}(" + weights + b"u")))


def repeated(content: bytes, times: int = 100_000) -> bytes:
    """A text of 10 MB that the rest uses again and again, as number 0 of the memo."""
    return pickle.BINUNICODE + struct.pack("<I", 10**7) + b"a" * 10**7 + b"\x940}" + content * times


# Small files that want all memory, or endless time.
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "sets": (lambda: stream(b"\x8f" * 5_000_000), LIMITS),
    "endless small objects": (lambda: stream(b"]" + b"(" + b"}\x94" * 10**7 + b"e"), LIMITS),
    "endless tuples": (lambda: stream(b"(" + b"K\x01\x85\x94" * 10**7 + b"t"), LIMITS),
    "dicts with an entry": (lambda: stream(text("a") + b"\x94" + b"}h\x00h\x00s" * 2_500_000), LIMITS),
    "marks": (lambda: stream(b"(N" * 5_000_000), DAMAGED),
    "records": (
        lambda: stream(named("collections", "OrderedDict") + b"\x94" + b"h\x00)R" * 2_500_000),
        NOTHING,
    ),
    "text of 100 MB": (
        lambda: stream(pickle.BINUNICODE + struct.pack("<I", 10**8) + b"a" * 10**8),
        DAMAGED,
    ),
    "wide text": (
        lambda: stream(
            (pickle.BINUNICODE + struct.pack("<I", 4_000_004) + b"a" * 4_000_000 + "\N{PILE OF POO}".encode())
            * 50
        ),
        LIMITS,
    ),
    "tuples of tuples as a key": (lambda: stream(b"}" + TUPLES + b"K\x01s"), LIMITS),
    "tuples of tuples in a set": (lambda: stream(b"\x8f(" + TUPLES + b"\x90"), LIMITS),
    "a key nested 2,000,000 deep": (lambda: stream(b"})" + b"\x85" * 2_000_000 + b"Ns"), LIMITS),
    "integers that collide as keys": (
        lambda: stream(
            b"}(" + b"".join(long(index * (2**61 - 1)) + b"N" for index in range(1, 100_000)) + b"u"
        ),
        LIMITS,
    ),
    "tuples of tuples as an argument": (lambda: network(b"N", _init_kwargs=table(a=TUPLES)), LIMITS),
    "lists of lists as an argument": (lambda: network(b"N", _init_kwargs=table(a=LISTS)), LIMITS),
    "modules of modules": (
        lambda: stream(table(ema=doubled(module(), module(modules=table(a=b"?", b=b"?"))))),
        PARTS,
    ),
    "modules with the same entries": (wide_modules, PARTS),
    "a name shared by 80,000 modules": (shared_name, PARTS),
    "a module in itself": (
        lambda: stream(table(ema=module(modules=b"}\x94" + text("a") + module(modules=b"h\x00") + b"s"))),
        PARTS,
    ),
    "payloads with many operations": (many_payloads, "the key 'img_resolution' is missing"),
    "a key of 10 MB again and again": (lambda: stream(repeated(b"h\x00Ns")), "holds no 'ema' but aaaa"),
    "bytes of 8 EB": (lambda: stream(pickle.BINBYTES8 + b"\xff" * 7 + b"\x3f"), LIMITS),
    "text of 4 GB": (lambda: stream(pickle.BINUNICODE + b"\xff" * 4), LIMITS),
    "long of 2 GB": (lambda: stream(b"\x8b\xff\xff\xff\x7f"), LIMITS),
    "byte array of 1 TB": (lambda: stream(pickle.BYTEARRAY8 + b"\0\0\0\0\0\x01\0\0", 5), LIMITS),
    "3 GB that are nowhere": (
        lambda: stream(b"")[:2] + pickle.BINBYTES8 + struct.pack("<Q", 3 * 2**30),
        "has 3,221,225,483 bytes, more than anything published",
    ),
}
