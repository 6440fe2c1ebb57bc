"""One file from a URL: tried again where a server is busy, resumed where a connection breaks."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool, Retry
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, MaxRetryError, ProtocolError

from gdd.config.sources import Source
from gdd.errors import UserError, shown
from gdd.progress import Bar, Display

CHUNK = 1 << 16  # bytes at most that are written at once
PROGRESS = 1 << 20  # bytes after which an attempt counts as a success, and patience begins anew
TIMEOUT = (20.0, 60.0)  # seconds to connect, and between two bytes
SLOWEST = 600.0  # seconds for each `PROGRESS`
MOST = 10**10  # bytes of a file of which sources.yaml does not say how many it has
HINT = "check the network (https_proxy and REQUESTS_CA_BUNDLE count), or name a mirror in config/local.yaml"

Check = Callable[[Path], object]  # raises a UserError for a file of another layout

log = logging.getLogger("gdd")


class Unreachable(UserError):
    """A server that gave no answer."""


class Patience(Retry):
    """Says why it waits."""

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        last, made = self.history[-1], len(self.history)
        reason = f"answers {last.status}" if last.status else _reason(last.error)
        log.info("%s: %s; attempt %s of %s.", last.url, reason, made + 1, made + 1 + int(self.total or 0))
        super().sleep(response)


PATIENCE = Patience(
    total=5,
    other=0,  # a certificate will not be another one next time
    status_forcelist=(408, 425, 429, 500, 502, 503, 504),
    raise_on_status=False,
    backoff_factor=1,
    backoff_jitter=1,
    backoff_max=60,
)


class _Bounded:
    """A connection that ends where a server has not given all of its headers in time."""

    sock: socket.socket | None

    def getresponse(self) -> HTTPResponse:
        late = threading.Event()

        def end() -> None:
            late.set()
            if self.sock:
                with contextlib.suppress(
                    OSError
                ):  # by its number: whatever encrypts it knows nothing of threads
                    socket.socket(fileno=os.dup(self.sock.fileno())).shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(SLOWEST, end)
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()  # type: ignore[misc,no-any-return]
        finally:
            timer.cancel()
            if late.is_set():  # else what has come of the headers would pass for all
                raise ProtocolError(f"no whole answer in {SLOWEST:g} seconds")


class _Http(_Bounded, HTTPConnection):  # type: ignore[misc]
    pass


class _Https(_Bounded, HTTPSConnection):  # type: ignore[misc]
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


class Adapter(HTTPAdapter):
    """Bounds the time that headers may take."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **options)
        manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
        return manager


class Session(requests.Session):
    """Follows redirects to encrypted addresses, and to others only where the first was not encrypted."""

    plain = False  # the first

    def request(self, method: str, url: str | bytes, *rest: Any, **options: Any) -> requests.Response:
        self.plain = str(url).startswith("http:")
        return super().request(method, url, *rest, **options)

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is not None:
            resp.close()  # else all of it would be read
            try:
                scheme = urlsplit(urljoin(resp.url, target)).scheme
            except ValueError:
                raise UserError(shown(f"{resp.url} leads to {target!r}, which is no address.")) from None
            if scheme != "https" and not (scheme == "http" and self.plain):
                raise UserError(
                    shown(f"{resp.url} leads to {target!r}, which is not encrypted; it is not used.")
                )
        return target


def open_session() -> requests.Session:
    """Return a session; it honours the environment's proxies, certificates and ~/.netrc."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # `Patience` says the same in a sentence
    session = Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, Adapter(max_retries=PATIENCE))
    session.headers["User-Agent"] = f"gdd/{version('gdd')}"
    # Bytes as they are: a compressed answer could neither be resumed nor be checked for length.
    session.headers["Accept-Encoding"] = "identity"
    return session


@dataclass
class Download:
    """Brings a source's file from `url` to `part`.

    Which file it is a part of stands in `<part>.tag`, by which another process can resume it.
    """

    session: requests.Session
    url: str
    source: Source
    part: Path
    display: Display
    bar: Bar | None = None

    def run(self) -> None:
        """Try until all bytes are there, or several attempts in a row bring next to nothing.

        Raises:
            UserError: the file cannot be had; what has come of it stays.
        """
        patience, most = PATIENCE, self._size()
        while True:
            try:
                self._attempt()
                return
            except requests.RequestException as error:
                sentence = f"{self.url} cannot be reached ({_reason(error)}); {HINT}."
                raise Unreachable(shown(sentence)) from None
            except HTTPError as error:  # while reading
                size = self._size()
                # Against the most there ever was: a server that cannot resume may bring the same for ever.
                if size >= most + PROGRESS:
                    patience, most = PATIENCE, size
                try:
                    broken = ProtocolError(_reason(error))  # what `Patience` tries again
                    patience = patience.increment("GET", shown(self.url), error=broken)
                except MaxRetryError:
                    raise UserError(
                        f"{shown(self.url)}: {_reason(error)}, {len(patience.history) + 1} times in a row; "
                        f"{size:,} bytes are kept; {HINT}."
                    ) from None
                patience.sleep()

    def _attempt(self) -> None:
        done, tag = self._size(), note(self.part).read_text() if note(self.part).exists() else ""
        headers = {"Range": f"bytes={done}-", "If-Range": tag} if done and tag else {}
        with self.session.get(self.url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            self._check(answer)
            ranges = answer.headers.get("Content-Range", "")
            rest = re.fullmatch(rf"bytes {done}-\d+/(\d{{1,18}})", ranges)
            if answer.status_code == 200:
                total, done = self._begin(answer), 0
                self._require_room(total)
            elif answer.status_code == 416 and ranges == f"bytes */{done}":
                return  # all is there
            elif headers and rest and _tag(answer) in ("", tag):  # some servers ignore If-Range
                total = int(rest[1])
            else:
                discard(self.part)
                raise ProtocolError("the file has changed")
            self.bar = self.bar or self.display.bar(self.source.path, total, done=done, unit="bytes")
            mark, since = done, time.monotonic()
            with self.part.open("ab") as file:
                # What has come at once: a whole `CHUNK` could take for ever.
                while chunk := answer.raw.read1(CHUNK, decode_content=False):
                    file.write(chunk)
                    done += len(chunk)
                    self.bar.update(done)
                    self._require_room(done)
                    if done > (self.source.bytes or MOST) or (total is not None and done > total):
                        return  # whoever checks the size will see
                    if done >= mark + PROGRESS:
                        mark, since = done, time.monotonic()
                    elif time.monotonic() > since + SLOWEST:
                        raise ProtocolError(f"less than {PROGRESS:,} bytes in {SLOWEST:g} seconds")
        if total is not None and done < total:
            raise ProtocolError(f"the connection ended after {done:,} of {total:,} bytes")

    def _check(self, answer: requests.Response) -> None:
        if answer.status_code not in (200, 206, 416):
            raise UserError(
                f"{shown(self.url)} answers {answer.status_code} {answer.reason or ''}; try again later, "
                "correct config/sources.yaml, or name a mirror in config/local.yaml."
            )

    def _begin(self, answer: requests.Response) -> int | None:
        """Note of what file the bytes to come are; returns its length, None if nobody knows it."""
        discard(self.part)
        note(self.part).write_text(_tag(answer))
        announced = answer.headers.get("Content-Length", "")
        return int(announced) if re.fullmatch(r"\d{1,18}", announced) else self.source.bytes

    def _require_room(self, size: int | None) -> None:
        """Refuse a file of unknown size that is larger than anything expected."""
        if self.source.bytes is None and size is not None and size > MOST:
            discard(self.part)
            raise UserError(
                f"{shown(self.url)} has more than {MOST:,} bytes, and config/sources.yaml does not say how "
                "many it has to have; give its 'bytes' there if it is right."
            )

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0


def note(part: Path) -> Path:
    """Return where it stands which file something is a part of."""
    return part.with_name(f"{part.name}.tag")


def discard(part: Path) -> None:
    """Remove a part, and the note of what it is a part of."""
    part.unlink(missing_ok=True)
    note(part).unlink(missing_ok=True)


def problem_of(part: Path, final: Path, check: Check) -> str | None:
    """Return what a reader says of a file that has no name yet, without its advice."""
    link = final.with_name(f".whole.{final.name}")  # because readers go by the ending
    link.unlink(missing_ok=True)
    link.symlink_to(part.name)
    try:
        check(link)
        return None
    except UserError as error:
        return str(error).replace(str(link), str(final)).rstrip(".").partition("; ")[0]
    finally:
        link.unlink()


def _tag(answer: requests.Response) -> str:
    """Return a strong ETag or the date; without one nobody can tell whether the file has changed."""
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")


def _reason(error: BaseException | None) -> str:
    """Return the innermost cause in a few words."""
    while inner := error and (error.__cause__ or error.__context__):
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
