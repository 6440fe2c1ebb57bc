"""Files that mean harm: each ends in one sentence, within bounds, and nothing happens."""

from __future__ import annotations

import io
import json
import linecache
import os
import pickle
import random
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import (
    BOMBS,
    BY_SENTENCE,
    COMMAND,
    DAMAGED,
    FLOAT,
    HOSTILE,
    REFUSED_LATER,
    Reduced,
    argument,
    ema,
    module,
    tensor,
    weight,
)
from python2_pickle import python2

from gdd.errors import UserError
from gdd.foreign import inert
from gdd.foreign.inert import answer, json_line, network
from gdd.foreign.read import read_foreign
from gdd.networks.edm_import import import_network

ROOT = Path(__file__).resolve().parents[3]


def python(code: str, *arguments: object, cwd: Path, given: str = "") -> list[str]:
    """Run code in a process of its own; returns the lines that it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, cwd=cwd, input=given, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.splitlines()


def is_sentence(message: str, path: Path) -> bool:
    rest = message.removeprefix(str(path))
    return (
        message != rest and rest[0] in " :" and rest.endswith(".") and rest.isprintable() and len(rest) < 500
    )


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        import_network(path, path.with_suffix(".safetensors"))
    assert is_sentence(str(caught.value), path)
    return str(caught.value)


# Without limits: it is the list of names alone that keeps things from happening.
WATCH = """
import io, json, sys
from gdd.foreign.inert import answer
events, watching = [], False
def watch(event, arguments):
    if watching and event != "builtins.id":
        events.append(f"{event} {arguments}")
sys.addaudithook(watch)
for kind, content in json.load(sys.stdin):
    file = io.BytesIO(bytes.fromhex(content))
    watching = True
    line = answer(file, kind, "ema")[0]
    watching = False
    print(json.dumps([json.loads(line), events]))
"""

# The same for CIFAR-10's batches, which need other names.
ZEROS = np.zeros((3, 32, 32), np.uint8)
BATCHES: dict[str, tuple[bytes, str]] = {
    "system": (python2({b"filenames": Reduced(os.system, (COMMAND,))}), "asks for posix.system"),
    "text protocol": (pickle.dumps(Reduced(eval, ("1",)), 0), "asks for __builtin__.eval"),
    "codecs": (pickle.dumps(b"bytes", 2), "asks for _codecs.encode"),
    "numpy's loader": (b"\x80\x02cnumpy\nload\nX\x06\0\0\0canary\x85R.", "asks for numpy.load"),
    "dotted name": (b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.", "asks for numpy.ndarray.__init__"),
    "a tensor": (pickle.dumps({"data": torch.zeros(1)}), "asks for torch._utils._rebuild_tensor_v2"),
    "state of the maker": (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}X\x01\0\0\0xK\x01sb.", DAMAGED),
    "array as a function": (b"\x80\x02cnumpy\nndarray\n)R.", DAMAGED),
    "array without a state": (b"\x80\x02}X\x01\0\0\0acnumpy\ndtype\n)Rs.", DAMAGED),
    "dtype of objects": (python2({b"a": np.array([[None]], dtype=object)}), "is not of bytes in row order"),
    "array too short": (
        python2({b"a": ZEROS}).replace(b"K\x03K\x20K\x20", b"K\x04K\x20K\x20"),
        "reaches beyond its values",
    ),
    "names with an escape sequence": (python2({b"label_names": [b"\x1b[2J"]}), "special characters"),
    "not a dict": (python2([1]), DAMAGED),
}


def test_each_is_named_and_nothing_happens(tmp_path: Path) -> None:
    files = [("network", *file) for file in HOSTILE.values()] + [
        ("batch", *file) for file in BATCHES.values()
    ]
    given = json.dumps([(kind, content.hex()) for kind, content, _ in files])
    lines = python(WATCH, cwd=tmp_path, given=given)
    for line, (_, _, sentence) in zip(lines, files, strict=True):
        header, events = json.loads(line)
        assert events == []
        assert sentence in header["problem"]
    assert list(tmp_path.iterdir()) == []  # the canary


# Where each of the damaged is refused: the function of inert.py, and words of the condition or of the error.
_SIZES, _VALUES, _COUNT = (
    "any(type(count) is not int",
    "len(storage.values) !=",
    "type(count) is not int or any(view)",
)
PLACES = {
    "another type of dill's": ("__call__", "KeyError: 'CodeType'"),
    "global that is no text": ("network", "UnpicklingError"),
    "call of what a call returned": ("network", "TypeError"),
    "build on a dict's class": ("network", "TypeError"),
    "build on a record's class": ("network", "TypeError"),
    "build on a function": ("network", "AttributeError"),
    "build on a storage": ("network", "AttributeError"),
    "build on a tensor": ("network", "AttributeError"),
    "build on a dict": ("network", "AttributeError"),
    "build with slots": ("network", "TypeError"),
    "extension": ("network", "ValueError: unregistered extension"),
    "persistent id": ("persistent_load", _COUNT),
    "storage elsewhere": ("rebuild_tensor", _VALUES),
    "storage counted by True": ("persistent_load", _COUNT),
    "buffer out of band": ("network", "UnpicklingError"),
    "payload that is a class": ("load_storage", "AttributeError"),
    "payload with a view": ("persistent_load", _COUNT),
    "payload of today's format": ("<genexpr>", "Reader(file, STORAGES).load()"),
    "payload cut off": ("rebuild_tensor", _VALUES),
    "payload with more behind it": ("rebuild_tensor", _VALUES),
    "tensor of more entries": ("rebuild_tensor", _SIZES),
    "tensor of negative size": ("rebuild_tensor", _SIZES),
    "tensor of huge stride": ("rebuild_tensor", _SIZES),
    "source of a type": ("persistent_object", "KeyError: 'class_name'"),
    "scalar of objects": ("scalar", "KeyError: 'O8'"),
    "codec of another kind": ("scalar", "error: "),
    "argument that is a record": ("json_line", "TypeError: Object of type Record"),
    "long of text": ("network", "ValueError"),
    "lists nested 100,000 deep": ("network", "type(held) is not dict"),
    "protocol 255": ("network", "ValueError: unsupported pickle protocol"),
    "a number": ("network", "type(held) is not dict"),
    "empty": ("network", "EOFError"),
    "a page of the web": ("network", "UnpicklingError"),
    "a ZIP archive": ("network", "Reader(file, NETWORKS).load()"),
    "noise behind a header": ("network", "UnpicklingError"),
}


def place(content: bytes) -> tuple[str, str]:
    """Return in which function of inert.py a file is refused, and its condition and error."""
    try:
        facts, _ = network(io.BytesIO(content), "ema")
        json_line(facts=facts)
    except Exception as error:
        frames = [at for at in traceback.extract_tb(error.__traceback__) if at.filename == inert.__file__]
        lines = [linecache.getline(inert.__file__, (frames[-1].lineno or 0) - back) for back in (1, 0)]
        return frames[-1].name, f"{''.join(lines)} {type(error).__name__}: {error}"
    return "", "accepted"


def test_each_gets_to_the_check_that_refuses_it() -> None:
    assert PLACES.keys() == BY_SENTENCE[DAMAGED].keys()
    for name, content in BY_SENTENCE[DAMAGED].items():
        function, words = PLACES[name]
        found = place(content)
        assert found[0] == function, name
        assert words in found[1], name
    # What they are made of, without the harm.
    for harmless in (weight(tensor(FLOAT)), argument(b"N"), ema(module())):
        assert place(harmless) == ("", "accepted")


@pytest.mark.slow
def test_each_sentence_is_said_where_a_network_is_imported(tmp_path: Path) -> None:
    cases = [(next(iter(files.values())), sentence) for sentence, files in BY_SENTENCE.items()]
    cases += [(make(), sentence) for make, sentence in (BOMBS["text of 4 GB"], BOMBS["a module in itself"])]
    for content, sentence in [*cases, *REFUSED_LATER.values()]:
        (tmp_path / "net.pkl").write_bytes(content)
        assert sentence in refused(tmp_path / "net.pkl")
    assert [path.name for path in tmp_path.iterdir()] == ["net.pkl"]
    with pytest.raises(UserError, match=r"^a batch asks for posix.system, [^\n]*\.$"):
        read_foreign(BATCHES["system"][0], "batch", called="a batch")


MEASURE = """
import json, os, re, resource, sys
from pathlib import Path
from gdd.errors import UserError
from gdd.networks.edm_import import import_network

for path in sys.argv[1:]:
    before, message = sum(os.times()[:4]), ""
    try:
        import_network(path, path + ".safetensors")
    except UserError as error:
        message = str(error)
    own = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
    peak = max(int(own), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    print(json.dumps([message, sum(os.times()[:4]) - before, peak / 2**20]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured through /proc")
def test_bombs_are_bounded(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.pkl" for name in BOMBS]
    for path, (make, _) in zip(paths, BOMBS.values(), strict=True):
        path.write_bytes(make())
    os.truncate(tmp_path / "3 GB that are nowhere.pkl", 3 * 2**30 + 11)
    lines = python(MEASURE, *paths, cwd=tmp_path)
    for path, (_, sentence), line in zip(paths, BOMBS.values(), lines, strict=True):
        message, seconds, gigabytes = json.loads(line)
        print(f"{path.stem}: {seconds:.1f} s, {gigabytes:.2f} GiB; {message.removeprefix(str(path))}")
        assert is_sentence(message, path)
        assert sentence in message
        assert seconds < 10, path.stem
        assert gigabytes < 1, path.stem


def test_files_cut_off_anywhere(tiny: Path) -> None:
    files: list[tuple[str, bytes, Any]] = [
        ("network", tiny.read_bytes(), range(0, 50_000, 97)),
        ("batch", python2({b"label_names": [b"airplane", b"automobile"], b"num_vis": 3072}), range(68)),
    ]
    for kind, content, sizes in files:
        assert len(content) > sizes[-1]
        for size in sizes:
            assert DAMAGED.encode() in answer(io.BytesIO(content[:size]), kind, "ema")[0]
        assert b"problem" not in answer(io.BytesIO(content), kind, "ema")[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_network_with_wrong_bytes(tiny: Path, seed: int) -> None:
    """A change of a few bytes gives a sentence, or a network where it hit no more than values."""
    content, rng = bytearray(tiny.read_bytes()), random.Random(seed)
    for _ in range((1, 10, 1000)[seed]):
        content[rng.randrange(len(content))] = rng.randrange(256)
    tiny.write_bytes(content)
    try:
        import_network(tiny, tiny.with_suffix(".safetensors"))
    except UserError as error:
        assert is_sentence(str(error), tiny)  # noqa: PT017


def test_things_that_are_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "absent.pkl", tmp_path / "pipe"):
        with pytest.raises(UserError, match="does not exist or is no file"):
            import_network(path, tmp_path / "out.safetensors")
