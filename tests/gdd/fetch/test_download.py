"""Downloads from a server that does everything wrong: right in the end, or refused in one sentence."""

from __future__ import annotations

import errno
import hashlib
import resource
import signal
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from gdd.config.local import Local
from gdd.config.sources import Source
from gdd.errors import UserError
from gdd.fetch import download
from gdd.fetch.fetch import Resources, fetch

pytestmark = pytest.mark.slow  # real connections, broken in many ways

PART = {"file.bin.part", "file.bin.part.tag"}
Facts = dict[str, Any]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_good_server(get: Any, server: Any) -> None:
    assert get() == [None]
    assert server.headers[0]["Accept-Encoding"] == "identity"
    assert server.headers[0]["User-Agent"].startswith("gdd/")


def test_a_server_with_a_password_and_a_redirect(run: Any, source: Source, server: Any, folder: Path) -> None:
    server.next(status=302, headers={"Location": "/elsewhere"})
    mirror = server.url.replace("//", "//me:secret@").removesuffix("file.bin")
    local = Local(mirrors={source.url.removesuffix("file.bin"): mirror})
    assert run({"x": source}, local) == ["x"]
    assert [path for path, _ in server.requests] == ["/file.bin", "/elsewhere"]
    assert server.headers[0]["Authorization"].startswith("Basic ")
    (folder / "file.bin").unlink()
    (folder / "lock.yaml").unlink()
    server.next(drop=2_000_000)
    server.next(times=9, status=404)
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:\d+/file\.bin answers 404 Not Found") as caught:
        run({"x": source}, local)
    assert "secret" not in str(caught.value) + (folder / "file.bin.part.tag").read_text()


# What is right in the end: behaviours of the server, and the ranges that are asked for

DATE = {"ETag": None, "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
M = {"drop": 1_000_000}  # the connection breaks after so many bytes
SOME = f"bytes={1_000_000}-"
RIGHT: dict[str, tuple[list[Facts], list[str | None]]] = {
    "only a date": ([{**M, "headers": DATE}, {"headers": DATE}], [None, SOME]),
    "a weak tag, then none": ([{**M, "headers": {"ETag": 'W/"1"'}}, {**M, "headers": {"ETag": None}}], [None] * 3),
    "ranges are ignored": ([M, {"ranges": False}], [None, SOME]),
    "the file changes on the way": ([{**M, "content": bytes(3_000_000), "headers": {"ETag": '"0"'}}], [None, SOME]),
    "another tag of the rest": ([M, {"if_range": False, "headers": {"ETag": '"2"'}}], [None, SOME, None]),
    "another range": ([M, {"if_range": False, "headers": {"Content-Range": "bytes 7-9/10"}}], [None, SOME, None]),
    "no range": ([M, {"if_range": False, "headers": {"Content-Range": None}}], [None, SOME, None]),
    "a part nobody asked for": ([{"status": 206, "headers": {"Content-Range": "bytes 0-9/10"}}], [None, None]),
    "chunks": ([{"chunked": True, **M}, {"chunked": True}], [None, SOME]),
    "busy": ([{"status": 408}, {"status": 429}, {"status": 500}, {"status": 503}], [None] * 5),
    "no answer twice": ([{"before": True}, {"before": True}], [None] * 3),
}  # fmt: skip


@pytest.mark.parametrize("case", RIGHT)
def test_right_in_the_end(case: str, get: Any, server: Any) -> None:
    behaviours, ranges = RIGHT[case]
    for behaviour in behaviours:
        server.next(**behaviour)
    assert get() == ranges


@pytest.mark.parametrize("how", [{}, {"reset": True}, {"hang": True}])
def test_a_broken_connection_goes_on_where_it_was(
    how: Facts, get: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", (20, 0.5 if "hang" in how else 20))
    server.next(drop=1_200_000, **how)
    first, second = get()
    assert first is None
    assert 1_000_000 < int(second.removeprefix("bytes=").removesuffix("-")) <= 1_200_000
    assert server.headers[1]["If-Range"] == '"1"'


def test_many_broken_connections_that_each_bring_something(get: Any, server: Any) -> None:
    server.content = server.content * 3
    server.next(times=7, drop=1_100_000)  # each begins the count anew, which would else be at its end
    assert len(get()) == 8


def test_the_known_length_tells_where_the_server_does_not(get: Any, server: Any) -> None:
    server.next(announce=None, drop=1_000_000)
    assert get(bytes=3_000_000) == [None, SOME]


def test_the_server_says_when(get: Any, server: Any, witness: Any) -> None:
    server.next(status=429, headers={"Retry-After": "7"})
    server.next(status=503, headers={"Retry-After": formatdate(0, usegmt=True)})
    server.next(status=503)
    get()
    asked, date, own = witness.waits
    assert asked == 7
    assert 2 <= date <= 3
    assert 4 <= own <= 5


# What is refused: behaviours, what is known of the file, words of the sentence, what is left, requests

SHORT = hashlib.sha256(bytes(1000)).hexdigest()
WRONG: dict[str, tuple[list[Facts], Facts, str, set[str], int]] = {
    "busy for ever": ([{"status": 503, "headers": {"Retry-After": "1"}}] * 9, {}, "answers 503 Service", set(), 6),
    "not there": ([{"status": 404}] * 9, {}, "answers 404 Not Found; try again later, correct", set(), 1),
    "it always breaks": ([{"drop": 2_000_000, "ranges": False}] * 20, {}, "6 times in a row; 2,000,000 bytes ar", PART, 6),
    "a length that is too long": ([{"announce": 4_000_000, "ranges": False}] * 9, {}, "3,000,000 bytes are kept", PART, 6),
    "a web page": ([{"content": b"<!DOCTYPE html>Log in"}], {"bytes": 21}, "it is a web page or", set(), 1),
    "a pointer": ([{"content": b"version https://git-lfs.x"}], {"bytes": 25}, "or a pointer", set(), 1),
    "wrong bytes": ([{"content": bytes(1000)}], {}, f"and was removed: its checksum is sha256:{SHORT}", set(), 1),
    "the same tag for other bytes": ([{**M, "content": bytes(3_000_000)}], {}, "its checksum is", set(), 2),
    "a wrong size": ([], {"bytes": 4_000_000}, "its size is 3,000,000 instead of 4,000,000 bytes", set(), 1),
    "too short a length": ([{"announce": 1000}], {}, "and was removed: its checksum is", set(), 1),
    "more than the known length": ([{"announce": None}], {"bytes": 2_000_000}, "instead of 2,000,000", set(), 1),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_refused_in_one_sentence(case: str, refused: Any, server: Any) -> None:
    behaviours, facts, words, left, requests_made = WRONG[case]
    for behaviour in behaviours:
        server.next(**behaviour)
    sentence, found = refused(**facts)
    assert words in sentence
    assert found == left
    assert len(server.requests) == requests_made


def test_a_server_that_never_answers(refused: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", (20, 0.05))
    server.next(times=9, before=True, hang=True)
    sentence, left = refused()
    assert f"{server.url} cannot be reached (timed out); check the network (https_proxy " in sentence
    assert left == set()
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:9/x", "cannot be reached (Connection refused)"),
        ("http://me:secret@:0:0/x", "cannot be reached (Failed to parse"),
    ],
)
def test_a_server_that_is_not_there(run: Any, source: Source, folder: Path, url: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        run({"x": source.model_copy(update={"url": url})})
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)
    assert names(folder) == set()


@pytest.mark.parametrize("works", [True, False])
def test_proxies_are_honoured(
    works: bool, run: Any, source: Source, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/file.bin") if works else "http://127.0.0.1:9")
    wanted = {"x": source.model_copy(update={"url": "http://example.invalid/file.bin"})}
    if works:
        run(wanted)
        assert server.requests == [("http://example.invalid/file.bin", None)]
    else:
        with pytest.raises(UserError, match=r"\(Connection refused\); check the network \(https_proxy"):
            run(wanted)


# Interruptions, full disks, other processes


def test_an_interrupted_download_is_gone_on_with(
    get: Any, refused: Any, witness: Any, folder: Path, server: Any
) -> None:
    def interrupt(done: int) -> None:
        if done > 1_500_000:
            raise KeyboardInterrupt

    witness.on_update = interrupt
    with pytest.raises(KeyboardInterrupt):
        get()
    assert names(folder) == PART
    witness.on_update = lambda done: None
    (asked,) = get()
    assert int(asked.removeprefix("bytes=").removesuffix("-")) > 1_500_000


def test_complete_bytes_do_not_come_again(get: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("gdd.fetch.fetch.measure", killed)
        get()
    assert get() == ["bytes=3000000-"]


@pytest.mark.parametrize("tag", ["", '"x"'])
def test_a_part_of_who_knows_what(get: Any, folder: Path, tag: str) -> None:
    (folder / "file.bin.part").write_bytes(b"who knows")
    (folder / "file.bin.part.tag").write_text(tag)
    assert get() == ["bytes=9-" if tag else None]


def test_a_disk_that_fills_up(get: Any, folder: Path) -> None:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, old[1]))
    try:
        with pytest.raises(OSError) as caught:
            get()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
    assert caught.value.errno == errno.EFBIG
    assert names(folder) == PART
    assert get() == [SOME]


FETCH = """
import sys
from pathlib import Path
from gdd.config.sources import Source
from gdd.fetch.fetch import Resources, fetch
fetch({"x": Source.model_validate_json(sys.argv[1])}, Resources(Path(sys.argv[2])))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_process_is_gone_on_from(
    how: signal.Signals, get: Any, server: Any, source: Source, folder: Path
) -> None:
    server.next(slow=0.1)
    command = [sys.executable, "-c", FETCH, source.model_dump_json(), str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    part = folder / "file.bin.part"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (part.exists() and part.stat().st_size > 500_000):
        time.sleep(0.01)
    process.send_signal(how)
    process.wait(60)
    assert names(folder) == PART
    assert int(get(checksum=None)[0].removeprefix("bytes=").removesuffix("-")) > 500_000


def test_one_at_a_time(get: Any, server: Any, source: Source, witness: Any, folder: Path) -> None:
    server.next(slow=0.02)
    begun = threading.Event()
    witness.on_update = lambda done: begun.set()
    fetched: list[str] = []

    def second() -> None:
        begun.wait(5)
        fetched.extend(fetch({"x": source}, Resources(folder)))

    thread = threading.Thread(target=second)
    thread.start()
    assert get(checksum=None) == [None]
    thread.join(20)
    assert not thread.is_alive()
    assert witness.said == [f"{folder / 'file.bin'}: another process is fetching it; waiting."]
    assert len(server.requests) == 1
    assert {path.name for path in folder.iterdir()} == {"file.bin", "lock.yaml", ".lock.yaml.lock"}
