"""Pickles that want something run: each ends in one sentence, and nothing happens.

What happens is watched by an audit hook, which sees every import, file, process and execution of code.
"""

from __future__ import annotations

import copyreg
import os
import pickle
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile import GLOBALS, HOSTILE
from pickle_operations import CANARY, call, stream, text

from gdd.errors import UserError
from gdd.networks.edm_import import import_network

pytestmark = pytest.mark.slow  # two hundred files, none of which may run anything


class Watch:
    """An audit hook. It stays for good, as hooks do, and does nothing but while it is entered."""

    def __init__(self) -> None:
        self.watching = False
        self.events: list[tuple[Any, ...]] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.watching:
            self.events.append((event, *arguments))

    def __enter__(self) -> None:
        self.events.clear()
        self.watching = True

    def __exit__(self, *_: object) -> None:
        self.watching = False


@pytest.fixture(scope="session")
def watch() -> Watch:
    return Watch()


def is_harmless(event: tuple[Any, ...], path: Path) -> bool:
    """Whether an event is just that the file itself is opened for reading, or that Python looks at an id."""
    name, *arguments = event
    if name == "open":
        return str(arguments[0]) == str(path) and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    return name in ("mmap.__new__", "builtins.id")


@pytest.fixture
def sentence(watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], str]:
    """Import a hostile file; returns what it ended in, and fails if anything else happened."""
    monkeypatch.chdir(tmp_path)
    destination = tmp_path / "out.safetensors"

    def run(path: Path) -> str:
        with pytest.raises(UserError) as caught, watch:
            import_network(path, destination)
        assert not (tmp_path / CANARY).exists()
        assert not destination.exists()
        assert [event for event in watch.events if not is_harmless(event, path)] == []
        assert is_sentence(caught.value, path)
        return str(caught.value)

    return run


def is_sentence(error: UserError, path: Path) -> bool:
    message = str(error)
    rest = message.removeprefix(str(path))
    return (
        message != rest and rest[0] in " :" and rest.endswith(".") and rest.isprintable() and len(rest) < 500
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_runs_and_one_sentence_comes(
    name: str, sentence: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.pkl"
    path.write_bytes(HOSTILE[name])
    registry = copyreg._inverted_registry  # type: ignore[attr-defined]
    monkeypatch.setitem(registry, 0x7F, ("posix", "system"))  # for the extensions
    sentence(path)


@pytest.mark.parametrize("wanted", GLOBALS)
def test_what_is_asked_for_is_named(wanted: str, sentence: Callable[[Path], str], tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    path.write_bytes(stream(call(wanted, text("echo"))))
    assert sentence(path) == (
        f"{path} asks for {wanted}, which is no part of a network (nothing of it was run); "
        "get the file from those who published it."
    )


def test_the_watch_sees_what_pickle_does(watch: Watch) -> None:
    with watch:
        pickle.loads(stream(call("builtins.exec", text("1 + 1"))))
    assert {"pickle.find_class", "exec"} <= {event for event, *_ in watch.events}


@pytest.mark.parametrize("step", [8192, pytest.param(1024, marks=pytest.mark.slow)])
def test_a_network_cut_off_anywhere(tiny: Path, sentence: Callable[[Path], str], step: int) -> None:
    content = tiny.read_bytes()
    assert len(content) > 50_000
    for size in range(0, len(content), step):
        tiny.write_bytes(content[:size])
        sentence(tiny)


@pytest.mark.parametrize("seed", range(10))
def test_a_network_with_wrong_bytes(tiny: Path, watch: Watch, seed: int) -> None:
    """A change of a few bytes gives a sentence, or a network where it hit no more than numbers."""
    content, rng = bytearray(tiny.read_bytes()), random.Random(seed)
    for _ in range(rng.choice([1, 10, 1000])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    tiny.write_bytes(content)
    try:
        import_network(tiny, tiny.with_suffix(".safetensors"))
    except UserError as error:
        assert is_sentence(error, tiny)  # noqa: PT017


def test_things_that_are_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.pkl"):
        with pytest.raises(UserError, match="does not exist or is no file"):
            import_network(path, tmp_path / "out.safetensors")
