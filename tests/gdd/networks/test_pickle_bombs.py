"""Small pickles that want all memory or endless time: refused within bounds, each in a process of its own."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pickle_operations import many, module, named, network, storage, stream, table, tensor, text


def doubled(start: bytes, pair: bytes) -> bytes:
    """`start`, then 60 times a pair of what came before, which `pair` makes of the two on the stack."""
    steps = (b"h" + bytes([index]) for index in range(60))
    return start + b"\x940" + b"".join(pair.replace(b"?", step) + b"\x940" for step in steps) + b"h\x3c"


TUPLES = doubled(b")", b"??\x86")
LISTS = doubled(b"]", b"](??e")


def laughing_modules() -> bytes:
    """Modules that each hold the one before them twice, 60 times."""
    modules = doubled(module(), module(modules=table(a=b"?", b=b"?")))
    return stream(table(ema=modules))


def wide_modules() -> bytes:
    """Modules that all hold the same dict of many entries."""
    entries = b"".join(text(f"a{index}") + b"N" for index in range(100_000))
    shared = b"}(" + entries + b"u\x940"
    children = b"".join(text(f"m{index}") + module(parameters=b"h\x00") for index in range(2000))
    return stream(shared + table(ema=module(modules=b"}(" + children + b"u")))


def many_payloads() -> bytes:
    described = many(
        *map(text, ["storage"]), named("torch", "FloatStorage"), *map(text, "1c"), b"K\x01", b"N"
    )
    nested = storage(b"}0" * 20_000 + described + b"Q", b"]" + text("1") + b"a", struct.pack("<qf", 1, 0))
    weights = b"".join(text(f"a{index}") + tensor(nested) for index in range(200))
    return stream(table(ema=module(b"}(" + weights + b"u")))


BOMBS: dict[str, Callable[[], bytes]] = {
    "sets": lambda: stream(b"\x8f" * 5_000_000),
    "dicts that are kept": lambda: stream(b"}\x94" * 5_000_000),
    "dicts with an entry": lambda: stream(text("a") + b"\x94" + b"}h\x00h\x00s" * 2_500_000),
    "marks": lambda: stream(b"(N" * 5_000_000),
    "records": lambda: stream(named("collections", "OrderedDict") + b"\x94" + b"h\x00)R" * 2_500_000),
    "bytes of one byte": lambda: stream(b"C\x01a" * 5_000_000),
    "text of 100 MB": lambda: stream(pickle.BINUNICODE + struct.pack("<I", 100_000_000) + b"a" * 100_000_000),
    "wide text": lambda: stream(
        (pickle.BINUNICODE + struct.pack("<I", 4_000_004) + b"a" * 4_000_000 + "\N{PILE OF POO}".encode())
        * 50
    ),
    "text of text": lambda: stream((pickle.SHORT_BINUNICODE + b"\xff" + b"a" * 255) * 100_000),
    "tuples of tuples as a key": lambda: stream(b"}" + TUPLES + b"K\x01s"),
    "tuples of tuples in a set": lambda: stream(b"\x8f(" + TUPLES + b"\x90"),
    "tuples of tuples as an argument": lambda: network(b"N", _init_kwargs=table(sigma_max=TUPLES)),
    "lists of lists as an argument": lambda: network(b"N", _init_kwargs=table(channel_mult=LISTS)),
    "modules of modules": laughing_modules,
    "modules with the same entries": wide_modules,
    "a module in itself": lambda: stream(
        table(ema=module(modules=b"}\x94" + text("a") + module(modules=b"h\x00") + b"s"))
    ),
    "payloads with many operations": many_payloads,
    "tuples nested 490,000 deep": lambda: stream(b")" + b"\x85" * 490_000),
    "lists nested 240,000 deep": lambda: stream(b"]" * 240_000 + b"a" * 239_999),
    "longs as keys": lambda: stream(b"\x8a\xff" + b"\x7f" * 255 + b"\x940}" + b"h\x00Ns" * 100_000),
    "a key of 10 MB again and again": lambda: stream(
        pickle.BINUNICODE
        + struct.pack("<I", 10_000_000)
        + b"a" * 10_000_000
        + b"\x940}"
        + b"h\x00Ns" * 100_000
    ),
    "3 GB that are nowhere": lambda: stream(b"")[:2] + pickle.BINBYTES8 + struct.pack("<Q", 3 * 2**30),
}

CHILD = """
import json, re, resource, sys, time
from pathlib import Path
from gdd.errors import UserError
from gdd.networks.edm_import import import_network

resource.setrlimit(resource.RLIMIT_AS, (24 * 2**30, 24 * 2**30))
for path in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    start, message = time.process_time(), ""
    try:
        import_network(path, path + ".safetensors")
    except UserError as error:
        message = str(error)
    seconds = time.process_time() - start
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps([message, seconds, int(peak[1]) / 2**20]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured through /proc")
def test_bombs_are_bounded(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.pkl" for name in BOMBS]
    for path, make in zip(paths, BOMBS.values(), strict=True):
        path.write_bytes(make())
    os.truncate(tmp_path / "3 GB that are nowhere.pkl", 3 * 2**30 + 11)
    command = [sys.executable, "-c", CHILD, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    lines = done.stdout.splitlines()
    for path, line in zip(paths, lines, strict=True):
        message, seconds, gigabytes = json.loads(line)
        print(f"{path.stem}: {seconds:.1f} s, {gigabytes:.2f} GiB; {message.removeprefix(str(path))}")
        assert message.startswith(f"{path} ")
        assert message.endswith(".")
        assert "\n" not in message
        assert seconds < 10, path.stem
        assert gigabytes < 1, path.stem
