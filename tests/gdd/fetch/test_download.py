"""Downloads from a server that does everything wrong: right in the end, or refused in one sentence."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from collections import namedtuple
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from gdd.errors import UserError
from gdd.fetch.checksums import Expected
from gdd.fetch.download import Downloader, Patience, Unreachable

pytestmark = pytest.mark.slow  # real connections, broken in many ways

Usage = namedtuple("Usage", "total used free")


def expected(content: bytes) -> Expected:
    return Expected(checksum=f"sha256:{hashlib.sha256(content).hexdigest()}")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def get(server: Any, witness: Any, downloader: Downloader) -> Any:
    """Download the server's file; returns the ranges that were asked for."""

    def run(wanted: Expected | None = None) -> list[str | None]:
        wanted = expected(server.content) if wanted is None else wanted
        before = len(server.requests)
        downloader.get(server.url, witness.final, wanted, lambda measured, mtime: witness.look())
        assert witness.final.read_bytes() == server.content
        assert names(witness.final.parent) == {"file.bin"}
        return [asked for _, asked in server.requests[before:]]

    return run


@pytest.fixture
def refused(server: Any, witness: Any, downloader: Downloader) -> Any:
    """Try to download the server's file; returns the sentence and what is left in the folder."""

    def run(wanted: Expected | None = None) -> tuple[str, set[str]]:
        wanted = expected(server.content) if wanted is None else wanted
        with pytest.raises(UserError) as caught:
            downloader.get(server.url, witness.final, wanted, lambda measured, mtime: witness.look())
        sentence = str(caught.value)
        assert sentence.endswith(".")
        assert "\n" not in sentence
        left = names(witness.final.parent)
        assert left <= {"file.bin.part", "file.bin.part.json"}
        return sentence, left

    return run


def test_a_good_server(get: Any, server: Any, witness: Any) -> None:
    assert get() == [None]
    assert witness.totals == [len(server.content)]
    assert server.headers[0]["Accept-Encoding"] == "identity"
    assert server.headers[0]["User-Agent"].startswith("gdd/")


# Broken connections


@pytest.mark.parametrize(("how", "silence"), [({}, 20), ({"reset": True}, 20), ({"hang": True}, 0.3)])
def test_a_broken_connection_goes_on_where_it_was(get: Any, server: Any, how: dict[str, Any]) -> None:
    server.next(drop=1_200_000, **how)
    first, second = get()
    assert first is None
    start = int(second.removeprefix("bytes=").removesuffix("-"))
    assert 1_000_000 < start <= 1_200_000
    assert server.headers[1]["If-Range"] == '"1"'


def test_many_broken_connections_that_each_bring_something(get: Any, server: Any, witness: Any) -> None:
    server.next(times=2, drop=1_100_000)  # each begins the count anew, which would else be at its end
    server.next(times=2, drop="before")
    assert len(get()) == 5
    assert len(witness.waits) == 4


def test_a_date_serves_where_there_is_no_tag(get: Any, server: Any) -> None:
    dated = {"ETag": None, "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    server.next(drop=1_000_000, headers=dated)
    server.next(headers=dated)
    assert get() == [None, "bytes=1000000-"]


def test_a_weak_tag_or_none_at_all_means_from_the_start(get: Any, server: Any) -> None:
    server.next(drop=1_000_000, headers={"ETag": 'W/"1"'})
    server.next(drop=1_000_000, headers={"ETag": None})
    assert get() == [None, None, None]


def test_a_server_that_ignores_ranges(get: Any, server: Any) -> None:
    server.next(drop=1_000_000)
    server.next(ranges=False)
    assert get() == [None, "bytes=1000000-"]


def test_a_server_that_ignores_ranges_and_always_breaks_ends(refused: Any, server: Any) -> None:
    server.next(times=20, drop=2_000_000, ranges=False)
    sentence, left = refused()
    assert "4 times in a row" in sentence
    assert len(server.requests) == 4
    assert left == {"file.bin.part", "file.bin.part.json"}


def test_a_file_that_changes_on_the_way(get: Any, server: Any) -> None:
    server.next(drop=1_000_000, content=bytes(3_000_000), headers={"ETag": '"0"'})
    assert get() == [None, "bytes=1000000-"]


@pytest.mark.parametrize(
    "change", [{"ETag": '"2"'}, {"Content-Range": "bytes 7-9/10"}, {"Content-Range": None}]
)
def test_a_rest_that_does_not_fit(get: Any, server: Any, change: dict[str, str]) -> None:
    server.next(drop=1_000_000)
    server.next(if_range=False, headers=change)
    assert get() == [None, "bytes=1000000-", None]


def test_a_file_that_has_become_shorter(get: Any, server: Any) -> None:
    server.next(drop=3_000_000, content=bytes(4_000_000), headers={"ETag": '"1"'})
    assert get() == [None, "bytes=3000000-", None]


def test_a_part_nobody_asked_for(get: Any, server: Any) -> None:
    server.next(status=206, headers={"Content-Range": "bytes 0-9/10"})
    assert get() == [None, None]


@pytest.mark.parametrize("silence", [0.05])
def test_a_server_that_never_answers(refused: Any, server: Any, witness: Any) -> None:
    server.next(times=4, hang="before")
    sentence, left = refused()
    assert "no answer in time, 4 times in a row; try again later" in sentence
    assert left == set()
    assert len(witness.waits) == 3


def test_a_server_that_is_not_there(witness: Any, downloader: Downloader) -> None:
    with pytest.raises(Unreachable, match=r"http://127.0.0.1:9/x: connection refused, 4 times"):
        downloader.get("http://127.0.0.1:9/x", witness.final, Expected(), lambda *_: None)
    assert names(witness.final.parent) == set()


def test_a_url_that_is_none(witness: Any, downloader: Downloader) -> None:
    with pytest.raises(UserError, match="cannot be asked for"):
        downloader.get("http://:0:0/x", witness.final, Expected(), lambda *_: None)


# Refusals


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_busy_servers_are_asked_again(get: Any, server: Any, witness: Any, status: int) -> None:
    server.next(times=3, status=status)
    assert len(get()) == 4
    first, second, third = witness.waits
    assert 0.5 <= first <= 1 <= second <= 2 <= third <= 4
    assert f"answers {status}" in witness.said[0]


def test_the_server_says_when(get: Any, server: Any, witness: Any) -> None:
    server.next(status=429, headers={"Retry-After": "0"})
    server.next(status=503, headers={"Retry-After": formatdate(0, usegmt=True)})
    server.next(status=503, headers={"Retry-After": "99999"})
    get()
    assert witness.waits == [0, 0, 600]


def test_a_server_that_stays_busy(refused: Any, server: Any) -> None:
    server.next(times=9, status=429, headers={"Retry-After": "0"})
    sentence, left = refused()
    assert "answers 429 Too Many Requests, 4 times in a row" in sentence
    assert left == set()
    assert len(server.requests) == 4


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_no_is_a_no(refused: Any, server: Any, witness: Any, status: int) -> None:
    server.next(times=9, status=status)
    sentence, left = refused()
    assert sentence.startswith(f"{server.url} answers {status} ")
    assert left == set()
    assert len(server.requests) == 1
    assert not witness.waits


def test_a_web_page_is_not_the_file(refused: Any, server: Any) -> None:
    server.next(headers={"Content-Type": "text/html; charset=utf-8"}, content=b"<html>Log in")
    sentence, left = refused(Expected())  # which would be trusted for ever
    assert "answers with a web page instead of the file" in sentence
    assert left == set()


# Wrong bytes


def test_wrong_bytes_once(get: Any, server: Any, witness: Any) -> None:
    server.next(content=bytes(3_000_000))
    assert get() == [None, None]
    assert "once more from the start" in witness.said[0]


def test_wrong_bytes_twice(refused: Any, server: Any) -> None:
    wanted = expected(server.content)
    server.content = bytes(1000)
    sentence, left = refused(wanted)
    assert wanted.checksum
    assert wanted.checksum.removeprefix("sha256:") in sentence
    assert hashlib.sha256(bytes(1000)).hexdigest() in sentence
    assert left == set()
    assert len(server.requests) == 2


def test_wrong_bytes_after_a_resumed_download(get: Any, server: Any) -> None:
    server.next(drop=1_000_000, content=bytes(3_000_000))  # the same tag for other bytes
    assert get() == [None, "bytes=1000000-", None]


def test_a_wrong_size_is_seen_before_the_bytes(refused: Any, server: Any, witness: Any) -> None:
    sentence, left = refused(Expected(bytes=4_000_000))
    assert "the server announces 3,000,000 instead of 4,000,000 bytes" in sentence
    assert left == set()
    assert witness.totals == []


def test_a_length_that_is_too_short(refused: Any, server: Any) -> None:
    server.next(times=2, announce=1000)
    sentence, left = refused()
    assert f"its SHA-256 is {hashlib.sha256(server.content[:1000]).hexdigest()} instead of" in sentence
    assert left == set()


def test_a_length_that_is_too_long(refused: Any, server: Any) -> None:
    server.next(times=9, announce=4_000_000, ranges=False)
    sentence, left = refused()
    assert "4 times in a row; try again later (3,000,000 bytes are kept)" in sentence
    assert left == {"file.bin.part", "file.bin.part.json"}


# Unknown lengths


def test_chunks_have_an_end_of_their_own(get: Any, server: Any) -> None:
    server.next(chunked=True, drop=1_000_000)
    server.next(chunked=True, ranges=False)
    assert get(Expected()) == [None, "bytes=1000000-"]


def test_without_a_length_a_checksum_is_needed(get: Any, refused: Any, server: Any) -> None:
    server.next(times=2, announce=None)
    sentence, left = refused(Expected())
    assert "does not say how long the file is" in sentence
    assert left == set()
    assert get() == [None]


def test_without_a_length_the_known_one_tells(get: Any, server: Any) -> None:
    server.next(announce=None, drop=1_000_000)
    assert get(Expected(bytes=3_000_000)) == [None, "bytes=1000000-"]


def test_more_than_the_known_length(refused: Any, server: Any) -> None:
    server.next(times=2, announce=None)
    sentence, left = refused(Expected(bytes=2_000_000))
    assert "the server sends more than 2,000,000 bytes" in sentence
    assert left == set()


# The disk


def test_a_small_disk_is_seen_before_the_bytes(
    refused: Any, witness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 1000, 1000))
    sentence, left = refused()
    assert "file.bin needs 3,000,000 more bytes, and the disk of" in sentence
    assert "has 1,000 left" in sentence
    assert left == set()
    assert witness.totals == []


def test_a_rest_needs_only_its_own_room(get: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    room = iter([3_000_000, 2_000_000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, next(room)))
    server.next(drop=1_000_000)
    assert get() == [None, "bytes=1000000-"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up(
    get: Any, refused: Any, server: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write = os.write
    with monkeypatch.context() as patch:

        def full(handle: int, data: Any) -> int:
            room = 1_000_000 - os.fstat(handle).st_size
            if room <= 0:
                raise OSError(number, os.strerror(number))
            return write(handle, data[:room])

        patch.setattr(os, "write", full)
        sentence, left = refused()
    assert "file.bin.part: the disk is full after 1,000,000 bytes; make room" in sentence
    assert left == {"file.bin.part", "file.bin.part.json"}
    assert get() == ["bytes=1000000-"]


# Interruptions, and other processes


def test_an_interrupted_download_is_gone_on_with(
    get: Any, server: Any, witness: Any, downloader: Downloader
) -> None:
    def interrupt(done: int) -> None:
        if done > 1_500_000:
            raise KeyboardInterrupt

    witness.on_update = interrupt
    with pytest.raises(KeyboardInterrupt):
        downloader.get(server.url, witness.final, Expected(), lambda *_: None)
    assert names(witness.final.parent) == {"file.bin.part", "file.bin.part.json"}
    witness.on_update = lambda done: None
    (asked,) = get()
    assert int(asked.removeprefix("bytes=").removesuffix("-")) > 1_500_000


def test_complete_bytes_are_not_asked_for_again(get: Any, server: Any, downloader: Downloader) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    final = downloader.progress.final  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        downloader.get(server.url, final, Expected(), killed)
    assert get() == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"url": 1}', '{"url": "http://other/", "validator": "x", "total": 1}']
)
def test_a_part_of_who_knows_what(get: Any, witness: Any, text: str) -> None:
    witness.final.parent.mkdir()
    (witness.final.parent / "file.bin.part").write_bytes(b"who knows")
    (witness.final.parent / "file.bin.part.json").write_text(text)
    assert get() == [None]


def test_one_at_a_time(get: Any, server: Any, witness: Any, downloader: Downloader) -> None:
    server.next(slow=0.02)
    said: list[str] = []
    begun = threading.Event()
    witness.on_update = lambda done: begun.set()

    def second() -> None:
        begun.wait(5)
        other = Downloader(downloader.session, SimpleNamespace(say=said.append), Patience())  # type: ignore[arg-type]
        other.get(server.url, witness.final, Expected(), lambda *_: said.append("fetched"))

    thread = threading.Thread(target=second)
    thread.start()
    assert get() == [None]
    thread.join(5)
    assert said == [f"{witness.final}: another process is fetching it; waiting."]
    assert names(witness.final.parent) == {"file.bin"}
    assert len(server.requests) == 1


# Elsewhere


def test_proxies_are_honoured(
    server: Any, witness: Any, downloader: Downloader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/file.bin"))
    downloader.get("http://example.invalid/file.bin", witness.final, Expected(), lambda *_: None)
    assert server.requests == [("http://example.invalid/file.bin", None)]


def test_redirects_are_followed(server: Any, witness: Any, downloader: Downloader) -> None:
    # Said to be closed, the connection is not used again while it is being closed.
    server.next(status=302, headers={"Location": "/elsewhere", "Connection": "close"})
    downloader.get(server.url, witness.final, Expected(), lambda *_: None)
    assert [path for path, _ in server.requests] == ["/file.bin", "/elsewhere"]


def test_a_redirect_must_not_drop_the_encryption(tmp_path: Path) -> None:
    final = tmp_path / "file.bin"

    def answer(*_: Any, **__: Any) -> Any:
        made = requests.Response()
        made.status_code, made.url, made._content = 200, "http://b.invalid/x", b""
        made._content_consumed = True  # type: ignore[attr-defined]
        return made

    session = SimpleNamespace(get=answer)
    downloader = Downloader(session, SimpleNamespace(), Patience())  # type: ignore[arg-type]
    with pytest.raises(
        UserError, match=r"https://a.invalid/x leads to http://b.invalid/x, which is not encr"
    ):
        downloader.get("https://a.invalid/x", final, Expected(), lambda *_: None)
    assert names(tmp_path) == set()


def test_a_file_of_this_machine(tmp_path: Path, witness: Any, downloader: Downloader, server: Any) -> None:
    mirror = tmp_path / "mirror.bin"
    mirror.write_bytes(server.content)
    downloader.get(mirror, witness.final, expected(server.content), lambda *_: witness.look())
    assert witness.final.read_bytes() == server.content
    assert names(witness.final.parent) == {"file.bin"}


@pytest.mark.parametrize("kind", ["missing", "folder", "wrong"])
def test_a_wrong_file_of_this_machine(
    tmp_path: Path, witness: Any, downloader: Downloader, kind: str
) -> None:
    mirror = tmp_path / "mirror.bin"
    if kind == "folder":
        mirror.mkdir()
    if kind == "wrong":
        mirror.write_bytes(b"wrong")
    with pytest.raises(UserError, match="is not the expected file" if kind == "wrong" else "has no file"):
        downloader.get(mirror, witness.final, expected(b"right"), lambda *_: None)
    assert names(witness.final.parent) == set()
