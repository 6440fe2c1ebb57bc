"""Pickles that want something run, by what they try."""

from __future__ import annotations

import os
import pickle
import random
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
torch_utils.persistence.import_hook dnnlib.util.call_func_by_name dnnlib.util.open_url
""".split()  # noqa: SIM905

HOSTILE: dict[str, bytes] = {
    **{
        f"reduce of protocol {protocol}": pickle.dumps(Reduced(os.system, (COMMAND,)), protocol)
        for protocol in range(6)
    },
    "reduce inside a network": network(SHELL),
    "reduce with state": pickle.dumps(Reduced(os.system, (COMMAND,), {"a": 1})),
    "reduce with items": pickle.dumps(Reduced(os.system, (COMMAND,), None, iter([1]), iter([(1, 2)]))),
    "getattr chain": stream(
        call("builtins.getattr", call("importlib.import_module", text("os")), text("system"))
        + text(COMMAND)
        + pickle.TUPLE1
        + pickle.REDUCE
    ),
    "dotted name": stream(named("collections", "OrderedDict.__init__.__globals__")),
    "global of protocol 2": stream(b"cos\nsystem\n" + text(COMMAND) + b"\x85R", 2),
    "global with an endless name": stream(b"c" + b"a" * 100_000, 2),
    "global that is no text": stream(b"K\x01K\x02\x93"),
    "global of unprintable text": stream(named("o\ns\x1b[2J", "\u202esystem")),
    "call of a text": stream(text(COMMAND) + b")R"),
    "call of what a call returned": stream(ORDERED + b")R"),
    "call with no tuple": stream(named("collections", "OrderedDict") + b"]R"),
    "build on a class": stream(named("collections", "OrderedDict") + table(popitem=SYSTEM[:-1]) + b"b"),
    "build on an allowed class": stream(named("collections", "OrderedDict") + table(a=b"K\x01") + b"b"),
    "build on a dict": stream(table(ema=b"N") + table(__class__=b"N") + b"b"),
    "build with slots": stream(b"}" + many(b"N", table(__class__=b"N")) + b"b"),
    "state with code": stream(table(ema=ORDERED + table(__setstate__=SHELL) + b"b")),
    "instance (INST)": stream(b"(" + text(COMMAND) + b"ios\nsystem\n"),
    "object (OBJ)": stream(b"(" + named("collections", "OrderedDict") + b"o"),
    "object of a class (NEWOBJ)": stream(named("subprocess", "Popen") + text(COMMAND) + b"\x85\x81"),
    "object with keywords (NEWOBJ_EX)": stream(named("collections", "OrderedDict") + b")}\x92"),
    "extension 1": stream(pickle.EXT1 + b"\x7f" + text(COMMAND) + b"\x85R"),
    "extension 2": stream(pickle.EXT2 + b"\x7f\x00" + text(COMMAND) + b"\x85R"),
    "extension 4": stream(pickle.EXT4 + b"\x7f\x00\x00\x00" + text(COMMAND) + b"\x85R"),
    "persistent id": stream(text(COMMAND) + b"Q"),
    "persistent id of protocol 0": stream(b"Psome\n"),
    "buffer out of band": stream(pickle.NEXT_BUFFER, 5),
    "append to a record": stream(ORDERED + b"K\x01a"),
    "extend a text": stream(text("a") + b"(K\x01e"),
    "add to a list": stream(b"](K\x01\x90"),
    "item of a text": stream(text("a") + b"K\x01K\x02s"),
    "item with an odd end": stream(b"}(" + text("a") + b"u"),
    "key that is a tuple": stream(b"})K\x01s"),
    "key that is a list": stream(b"}]K\x01s"),
    "payload that calls": network(tensor(stream(SHELL))),
    "payload with a call for a storage": network(tensor(storage(SHELL))),
    "payload with a module": network(
        tensor(storage(many(text("module"), SYSTEM, text("a.py"), text(SOURCE)) + b"Q"))
    ),
    "payload that is a class": network(tensor(storage(named("torch", "FloatStorage")))),
    "payload with a view": network(
        tensor(
            storage(
                many(
                    text("storage"),
                    named("torch", "FloatStorage"),
                    *map(text, ("1", "cpu")),
                    b"K\x01",
                    many(text("1"), b"K\x00", b"K\x01"),
                )
                + b"Q"
            )
        )
    ),
    "payload of today's format": network(tensor(saved(torch.zeros(1)))),
    "payload that is empty": network(tensor(b"")),
    "payload cut off": network(tensor(FLOATS[:-1])),
    "payload with more behind it": network(tensor(FLOATS + b"\x00")),
    "payload within a payload": network(
        tensor(storage(call("torch.storage._load_from_bytes", binary(FLOATS))))
    ),
    "tensor beyond its storage": network(tensor(FLOATS, size=b"K\x02\x85")),
    "tensor repeated by its stride": network(
        tensor(FLOATS, size=b"J\xff\xff\xff\x7f\x85", stride=b"K\x00\x85")
    ),
    "tensor of negative size": network(tensor(FLOATS, size=b"J\xff\xff\xff\xff\x85")),
    "tensor of nested size": network(tensor(FLOATS, size=b"K\x01\x85\x85")),
    "tensor of huge stride": network(tensor(FLOATS, stride=b"\x8a\xff" + b"\x7f" * 255 + b"\x85")),
    "parameters in parameters": network(
        named("torch._utils", "_rebuild_parameter") * 1000 + b")R" + b"\x85R" * 999
    ),
    "source of a module": stream(table(ema=module())),
    "source of a type": stream(
        call(
            "torch_utils.persistence._reconstruct_persistent_obj", table(type=text("type"), src=text(SOURCE))
        )
    ),
    "scalar of objects": network(
        b"N",
        _init_kwargs=table(
            sigma_max=call(
                "numpy.core.multiarray.scalar",
                call("numpy.dtype", text("O8"), b"\x89", b"\x88"),
                binary(b"\xef\xbe\xad\xde\0\0\0\0"),
            )
        ),
    ),
    "codec of another kind": network(
        b"N",
        _init_kwargs=table(
            sigma_max=call(
                "numpy.core.multiarray.scalar",
                call("numpy.dtype", text("f8")),
                call("_codecs.encode", text(COMMAND), text("zip")),
            )
        ),
    ),
    "get without a put": stream(b"h\x01"),
    "pop too much": stream(b"00"),
    "tuple of too few": stream(b"K\x01\x87"),
    "end without a value": stream(b""),
    "end inside a mark": stream(b"}(") + b".",
    "long of text": stream(b"L" + b"9" * 100_000 + b"L\n", 2),
    "integer of text": stream(b"I" + b"9" * 100_000 + b"\n", 2),
    "long of 2 GB": stream(b"\x8b\xff\xff\xff\x7f"),
    "long of a negative size": stream(b"\x8b\xff\xff\xff\xff"),
    "bytes of 8 EB": stream(pickle.BINBYTES8 + b"\xff" * 7 + b"\x7f"),
    "bytes of 16 EB": stream(pickle.BINBYTES8 + b"\xff" * 8),
    "text of 8 EB": stream(pickle.BINUNICODE8 + b"\xff" * 7 + b"\x7f"),
    "text of 4 GB": stream(pickle.BINUNICODE + b"\xff" * 4),
    "byte array of 1 TB": stream(pickle.BYTEARRAY8 + b"\0\0\0\0\0\x01\0\0", 5),
    "frame of 8 EB": stream(pickle.FRAME + b"\xff" * 7 + b"\x7f"),
    "text that is no UTF-8": stream(pickle.SHORT_BINUNICODE + b"\x01\xff"),
    "a list in itself": stream(b"]\x94h\x00a"),
    "a dict in itself": stream(b"}\x94" + text("ema") + b"h\x00s"),
    "tuples nested 100,000 deep": stream(b")" + b"\x85" * 100_000),
    "lists nested 100,000 deep": stream(b"]" * 100_000 + b"a" * 99_999),
    "marks nested 100,000 deep": stream(b"(" * 100_000 + b"t" * 100_000),
    "calls nested 1,000 deep": stream(ORDERED[:-2] * 1000 + b"\x85R" * 1000),
    "protocol 6": stream(b"}", 6),
    "protocol 255": stream(b"}", 255),
    "protocol 0": b"(dp0\n.",
    "protocol twice": stream(b"\x80\x04}"),
    "empty": b"",
    "one byte": b"\x80",
    "two bytes": b"\x80\x04",
    "a page of the web": b"<!DOCTYPE html><title>404</title>",
    "a ZIP archive": saved({"ema": torch.zeros(1)}),
    "zeros": bytes(10_000),
    "noise": random.Random(0).randbytes(10_000),
    "noise behind a header": b"\x80\x04" + random.Random(1).randbytes(10_000),
    "a number": stream(b"K\x01"),
    "an empty dict": stream(b"}"),
    "a network that is a number": stream(table(ema=b"K\x01")),
}
