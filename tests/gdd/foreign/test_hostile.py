"""Files that mean harm: each ends in one sentence, within bounds, and nothing happens."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hostile import BOMBS, GLOBALS, HOSTILE
from pickle_operations import call, stream, text

from gdd.errors import UserError
from gdd.foreign.inert import NETWORKS, Problem, Reader
from gdd.foreign.read import ROOT
from gdd.networks.edm_import import import_network


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


@pytest.mark.slow
def test_every_file_ends_in_its_sentence(tmp_path: Path) -> None:
    def check(name: str) -> None:
        content, sentence = HOSTILE[name]
        path = tmp_path / f"{name}.pkl"
        path.write_bytes(content)
        assert sentence in refused(path), name
        path.unlink()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(check, HOSTILE))
    assert list(tmp_path.iterdir()) == []


# Without limits: it is the list of names alone that keeps things from happening.
WATCH = """
import io, json, sys
from gdd.foreign.child import answer
events, watching = [], False
def watch(event, arguments):
    if watching and event != "builtins.id":
        events.append(f"{event} {arguments}")
sys.addaudithook(watch)
for name, content in json.load(sys.stdin).items():
    file = io.BytesIO(bytes.fromhex(content))
    watching = True
    line = answer(file, "network", "ema")[0]
    watching = False
    print(json.dumps([name, json.loads(line), events]))
"""


def test_nothing_happens(tmp_path: Path) -> None:
    files = {name: content.hex() for name, (content, _) in HOSTILE.items()}
    lines = python(WATCH, cwd=tmp_path, given=json.dumps(files))
    for line, (name, (_, sentence)) in zip(lines, HOSTILE.items(), strict=True):
        read, header, events = json.loads(line)
        assert (read, events) == (name, [])
        assert "facts" in header or sentence in header["problem"]  # or the architecture will be refused
    assert list(tmp_path.iterdir()) == []  # the canary


@pytest.mark.parametrize(
    "action", ["open('a', 'w')", "exec('1')", "import wave", "os.system('touch a')", "os.fork()"]
)
def test_what_would_happen_is_stopped(tmp_path: Path, action: str) -> None:
    code = f"import os; from gdd.foreign.child import confine; confine(0)\n{action}\nprint('after')"
    (line,) = python(code, cwd=tmp_path)
    assert "tries to do something" in json.loads(line)["problem"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wanted", GLOBALS)
def test_what_is_asked_for_is_named(wanted: str) -> None:
    with pytest.raises(Problem) as caught:
        Reader(io.BytesIO(stream(call(wanted, text("echo")))), NETWORKS).load()
    assert str(caught.value).startswith(f"asks for {wanted}, which no such file needs")


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


@pytest.mark.parametrize("step", [16384, pytest.param(2048, marks=pytest.mark.slow)])
def test_a_network_cut_off_anywhere(tiny: Path, step: int) -> None:
    content = tiny.read_bytes()
    assert len(content) > 50_000
    for size in range(0, len(content), step):
        tiny.write_bytes(content[:size])
        refused(tiny)


@pytest.mark.parametrize("seed", range(5))
def test_a_network_with_wrong_bytes(tiny: Path, seed: int) -> None:
    """A change of a few bytes gives a sentence, or a network where it hit no more than numbers."""
    content, rng = bytearray(tiny.read_bytes()), random.Random(seed)
    for _ in range(rng.choice([1, 10, 1000])):
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
