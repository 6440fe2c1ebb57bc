"""A web server on the loopback interface that misbehaves as told, and a display that looks at the folder."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import urllib3.util.retry

from gdd.config.local import Local
from gdd.config.sources import Source
from gdd.errors import UserError
from gdd.fetch import download
from gdd.fetch import fetch as module

CONTENT = random.Random(0).randbytes(3_000_000)


class Server:
    """Serves `content` under every path; each request uses up one behaviour of `next`, then all are good."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.behaviours: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str | None]] = []  # path and range
        self.headers: list[dict[str, str]] = []
        self.release = threading.Event()  # ends a hanging answer
        http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"server_": self}))
        http.daemon_threads = True
        self.http = http
        self.url = f"http://127.0.0.1:{http.server_port}/file.bin"
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def next(self, times: int = 1, **behaviour: Any) -> None:
        """Behave like this for the next requests.

        status, headers (None removes one), content, drop: end the connection after so many bytes,
        reset: do so rudely, ranges=False: ignore them, if_range=False: ignore that, announce: Content-Length,
        chunked, hang: send nothing more, before=True: not even an answer, slow: seconds between pieces.
        """
        self.behaviours += [behaviour] * times

    def close(self) -> None:
        self.release.set()
        self.http.shutdown()
        self.http.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_: Server

    def do_GET(self) -> None:
        server = self.server_
        server.requests.append((self.path, self.headers.get("Range")))
        server.headers.append(dict(self.headers))
        do = server.behaviours.pop(0) if server.behaviours else {}
        self.close_connection = True
        if do.get("before"):
            if do.get("hang"):
                server.release.wait(10)
            return
        if do.get("drip"):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            while not server.release.wait(0.02):
                self.wfile.write(b"x")
        content = do.get("content", server.content)
        # Said to be closed, the connection is not used again while it is being closed.
        headers: dict[str, Any] = {"ETag": '"1"', "Connection": "close"} | do.get("headers", {})
        status, start = do.get("status", 200), 0
        asked, held = self.headers.get("Range"), self.headers.get("If-Range")
        holds = held in (headers["ETag"], headers.get("Last-Modified")) or not do.get("if_range", True)
        if status == 200 and asked and do.get("ranges", True) and holds:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            status = 206 if start < len(content) else 416
            span = f"{start}-{len(content) - 1}" if status == 206 else "*"
            headers.setdefault("Content-Range", f"bytes {span}/{len(content)}")
        body = content[start:] if status in (200, 206) else b"no"
        chunked = do.get("chunked", False)
        headers |= {"Transfer-Encoding": "chunked"} if chunked else {}
        if not chunked and do.get("announce", True) is not None:
            headers["Content-Length"] = do.get("announce", len(body))
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        self.send(body, chunked, do)

    def send(self, body: bytes, chunked: bool, do: dict[str, Any]) -> None:
        end = do.get("drop", len(body))
        for start in range(0, end, 200_000):
            piece = body[start : min(start + 200_000, end)]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if do.get("slow"):
                self.wfile.flush()
                time.sleep(do["slow"])
        if chunked and end == len(body):
            self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()
        if do.get("hang"):
            self.server_.release.wait(10)
        if do.get("reset"):
            time.sleep(0.05)
            # Lingering for no time makes the kernel send a reset instead of an end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client has gone
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.close()


@pytest.fixture
def source(server: Server) -> Source:
    """The server's file, of which nothing is known."""
    return Source(use="a test", url=server.url, path="file.bin", bytes=None, checksum=None, licence="none")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "resources"
    path.mkdir()
    return path


class Witness:
    """A display and a clock that look at the folder each time they are told something."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.waits: list[float] = []
        self.on_update: Callable[[int], None] = lambda done: None

    def __enter__(self) -> Witness:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def look(self) -> None:
        visible = {path.name for path in self.folder.iterdir() if not path.name.startswith(".")}
        unfinished = visible - {"lock.yaml", "file.bina", "file.binb"}
        assert all(name.endswith((".part", ".part.tag")) for name in unfinished), "not verified yet"

    def bar(self, name: str, total: int | None, **_: object) -> Witness:
        self.look()
        return self

    def update(self, done: int) -> None:
        self.look()
        self.on_update(done)

    def say(self, sentence: str) -> None:
        self.look()
        self.said.append(sentence)

    def sleep(self, seconds: float) -> None:
        self.look()
        self.waits.append(seconds)


@pytest.fixture
def witness(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Witness:
    """What every download of the test is shown to, and is told instead of waiting."""
    witness = Witness(folder)
    monkeypatch.setattr(module, "Display", lambda: witness)
    clock = SimpleNamespace(sleep=witness.sleep, time=time.time)
    monkeypatch.setattr(urllib3.util.retry, "time", clock)
    monkeypatch.setattr(download, "TIMEOUT", (20, 20))
    return witness


@pytest.fixture
def run(folder: Path, witness: Witness) -> Callable[..., list[str]]:
    """Fetch sources by name into `folder`; returns the names of those that had to be."""

    def call(sources: dict[str, Source], local: Local | None = None, **options: Any) -> list[str]:
        return module.fetch(sources, module.Resources(folder, local or Local()), **options)

    return call


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "getaddrinfo", "socketpair"):
        monkeypatch.setattr(socket, name, refuse)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.fixture
def get(run: Any, server: Any, source: Source, folder: Path) -> Callable[..., list[str | None]]:
    """Fetch the server's file, of which the SHA-256 is known or else `facts`; returns the ranges asked for."""

    def call(**facts: Any) -> list[str | None]:
        known = facts or {"checksum": f"sha256:{hashlib.sha256(server.content).hexdigest()}"}
        before = len(server.requests)
        assert run({"x": source.model_copy(update=known)}) == ["x"]
        assert (folder / "file.bin").read_bytes() == server.content
        assert names(folder) == {"file.bin", "lock.yaml"}
        return [asked for _, asked in server.requests[before:]]

    return call


@pytest.fixture
def refused(get: Any, folder: Path) -> Callable[..., tuple[str, set[str]]]:
    """Try to fetch the server's file; returns the sentence and what is left in the folder."""

    def call(**facts: Any) -> tuple[str, set[str]]:
        with pytest.raises(UserError) as caught:
            get(**facts)
        sentence = str(caught.value)
        assert sentence.endswith(".")
        assert "\n" not in sentence
        return sentence, names(folder)

    return call
