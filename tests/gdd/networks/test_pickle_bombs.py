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
from pickle_operations import module, named, network, storage, stream, table, tensor, text

LAUGH = b"\x85\x94" + b"".join(
    b"h" + bytes([index]) + b"h" + bytes([index]) + b"\x86\x94" for index in range(60)
)


def laughing_modules() -> bytes:
    """Modules that each hold the one before them twice, 60 times."""
    inner = module() + b"\x940"
    for index in range(60):
        twice = table(a=b"h" + bytes([index]), b=b"h" + bytes([index]))
        inner += module(modules=twice) + b"\x940"
    return stream(inner + table(ema=b"h\x3c"))


def wide_modules() -> bytes:
    """Modules that all hold the same dict of many entries."""
    entries = b"".join(text(f"a{index}") + b"N" for index in range(100_000))
    shared = b"}(" + entries + b"u\x940"
    children = b"".join(text(f"m{index}") + module(parameters=b"h\x00") for index in range(2000))
    return stream(shared + table(ema=module(modules=b"}(" + children + b"u")))


def many_payloads() -> bytes:
    nested = storage(b"K\x01" * 1 + b"}0" * 20_000)
    return stream(
        table(ema=module(b"}(" + b"".join(text(f"a{i}") + tensor(nested) for i in range(200)) + b"u"))
    )


BOMBS: dict[str, Callable[[], bytes]] = {
    "sets": lambda: stream(b"\x8f" * 50_000_000),
    "dicts that are kept": lambda: stream(b"}\x94" * 20_000_000),
    "dicts with an entry": lambda: stream(text("a") + b"\x94" + b"}h\x00h\x00s" * 10_000_000),
    "marks": lambda: stream(b"(N" * 20_000_000),
    "records": lambda: stream(named("collections", "OrderedDict") + b"\x94" + b"h\x00)R" * 10_000_000),
    "bytes of one byte": lambda: stream(b"C\x01a" * 20_000_000),
    "text of 400 MB": lambda: stream(pickle.BINUNICODE + struct.pack("<I", 400_000_000) + b"a" * 400_000_000),
    "wide text": lambda: stream(
        (pickle.BINUNICODE + struct.pack("<I", 4_000_004) + b"a" * 4_000_000 + "\N{PILE OF POO}".encode())
        * 50
    ),
    "text of text": lambda: stream((pickle.SHORT_BINUNICODE + b"\xff" + b"a" * 255) * 900_000),
    "tuples of tuples as a key": lambda: stream(b"}" + b")" + LAUGH + b"K\x01s"),
    "tuples of tuples in a set": lambda: stream(b"\x8f(" + b")" + LAUGH + b"\x90"),
    "tuples of tuples as an argument": lambda: network(b"N", _init_kwargs=table(sigma_max=b")" + LAUGH)),
    "lists of lists as an argument": lambda: network(
        b"N",
        _init_kwargs=table(
            channel_mult=b"]\x94"
            + b"".join(b"](" + b"h" + bytes([i]) * 1 + b"h" + bytes([i]) + b"e\x94" for i in range(60))
        ),
    ),
    "modules of modules": laughing_modules,
    "modules with the same entries": wide_modules,
    "a module in itself": lambda: stream(
        table(ema=module(modules=b"}\x94" + text("a") + module(modules=b"h\x00") + b"s"))
    ),
    "payloads with many operations": many_payloads,
    "tuples nested 900,000 deep": lambda: stream(b")" + b"\x85" * 900_000),
    "lists nested 450,000 deep": lambda: stream(b"]" * 450_000 + b"a" * 449_999),
    "longs as keys": lambda: stream(b"}" + b"\x8a\xff" + b"\x7f" * 255 + b"\x94" + b"h\x00Ns" * 200_000),
    "a key of 10 MB again and again": lambda: stream(
        pickle.BINUNICODE
        + struct.pack("<I", 10_000_000)
        + b"a" * 10_000_000
        + b"\x94}"
        + b"h\x00Ns" * 300_000
    ),
    "3 GB that are nowhere": lambda: stream(b"")[:2] + pickle.BINBYTES8 + struct.pack("<Q", 3 * 2**30),
}

CHILD = """
import json, resource, sys, time
from gdd.errors import UserError
from gdd.networks.edm_import import import_network
resource.setrlimit(resource.RLIMIT_AS, (24 * 2**30, 24 * 2**30))
start = time.monotonic()
try:
    import_network(sys.argv[1], sys.argv[1] + ".safetensors")
    message = ""
except UserError as error:
    message = str(error)
seconds = time.monotonic() - start
print(json.dumps([message, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_bounded(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    path.write_bytes(BOMBS[name]())
    if name == "3 GB that are nowhere":
        os.truncate(path, 3 * 2**30 + 11)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, path], capture_output=True, text=True, check=True, timeout=300
    )
    message, seconds, gigabytes = json.loads(done.stdout)
    assert message.startswith(f"{path} ")
    assert message.endswith(".")
    assert "\n" not in message
    assert seconds < 10
    assert gigabytes < 1
