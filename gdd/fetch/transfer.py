"""One attempt to get a file: over HTTP from where the last one stopped, or from a folder."""

from __future__ import annotations

import contextlib
import email.utils
import re
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import requests
import urllib3

from gdd.errors import UserError
from gdd.fetch.checksums import CHUNK as FILE_CHUNK
from gdd.fetch.checksums import Expected
from gdd.fetch.part import Origin, Part
from gdd.fetch.progress import Progress

# Bytes asked for at a time: when a connection breaks, up to so many that have come are lost.
CHUNK = 1 << 16

TOO_EARLY_OR_BUSY = (408, 425, 429)  # as 5xx, worth another try


class Interrupted(Exception):
    """It may work next time."""

    def __init__(self, reason: str, *, after: float | None = None, answered: bool = True) -> None:
        super().__init__(reason)
        self.after = after  # seconds the server asks to wait
        self.answered = answered  # whether there was any answer


class WrongBytes(Exception):
    """The server has another file than expected."""


def open_session() -> requests.Session:
    """Return a session; it honours the environment's proxies, certificates and ~/.netrc."""
    session = requests.Session()
    session.headers["User-Agent"] = f"gdd/{version('gdd')}"
    # Bytes as they are: a compressed answer could neither be resumed nor be checked for length.
    session.headers["Accept-Encoding"] = "identity"
    return session


def receive(
    session: requests.Session,
    url: str,
    part: Part,
    expected: Expected,
    progress: Progress,
    timeout: tuple[float, float],
) -> None:
    """Bring `part` to its full length.

    Raises:
        Interrupted: it did not get there; what has come stays in `part` if it is of use.
        WrongBytes: the length is not the expected one.
        UserError: no further attempt would help.
    """
    origin = part.origin(url)
    headers = {}
    if origin and origin.validator:
        if origin.total == part.size:
            return
        headers = {"Range": f"bytes={part.size}-", "If-Range": origin.validator}
    with (
        _network_errors(url),
        session.get(url, headers=headers, stream=True, timeout=timeout) as answer,
    ):
        _check_answer(answer, url, part)
        if origin and answer.status_code == 206:
            total = _total_of_rest(answer, origin, part)
        else:
            total = _begin(answer, url, part, expected)
        if total is not None:
            part.reserve(total - part.size)
        progress.begin(part.size, total)
        for chunk in answer.raw.stream(CHUNK, decode_content=False):
            part.append(chunk)
            progress.update(part.size)
            if total is not None and part.size > total:
                raise WrongBytes(f"the server sends more than {total:,} bytes")
    if total is not None and part.size < total:
        raise Interrupted(f"the connection ended after {part.size:,} of {total:,} bytes")


def copy(source: Path, part: Part, progress: Progress) -> None:
    """Fill `part` from a file of this machine.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with source.open("rb") as file:
            total = source.stat().st_size
            part.restart(Origin(source.absolute().as_uri(), None, total))
            part.reserve(total)
            progress.begin(0, total)
            while chunk := file.read(FILE_CHUNK):
                part.append(chunk)
                progress.update(part.size)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"The mirror has no file {source} ({error.strerror}); see `mirrors`.") from None


def _check_answer(answer: requests.Response, url: str, part: Part) -> None:
    status = answer.status_code
    said = f"{url} answers {status} {answer.reason or ''}".rstrip()
    if status in TOO_EARLY_OR_BUSY or status >= 500:
        raise Interrupted(said, after=_retry_after(answer))
    if status == 416:  # what we have is longer than the file: it is another one now
        part.clear()
        raise Interrupted(f"{url} has changed")
    if status not in (200, 206):
        raise UserError(f"{said}; correct config/sources.yaml or name a mirror in config/local.yaml.")
    if urlsplit(url).scheme == "https" and urlsplit(answer.url).scheme != "https":
        raise UserError(f"{url} leads to {answer.url}, which is not encrypted; it is not used.")
    if answer.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise UserError(
            f"{url} answers with a web page instead of the file; perhaps it is a log-in page of this network."
        )


def _begin(answer: requests.Response, url: str, part: Part, expected: Expected) -> int | None:
    """Start from nothing; returns the total length, None if nobody knows it."""
    if answer.status_code == 206:
        raise Interrupted(f"{url} answers with a part of the file that was not asked for")
    announced = answer.headers.get("Content-Length", "")
    total = int(announced) if announced.isdecimal() else None
    if total is not None and expected.bytes not in (None, total):
        raise WrongBytes(f"the server announces {total:,} instead of {expected.bytes:,} bytes")
    if total is None and not answer.raw.chunked and not expected.known:
        raise UserError(
            f"{url} does not say how long the file is, so that a broken one would look complete; "
            "fetch it by hand or name a mirror in config/local.yaml."
        )
    total = expected.bytes if total is None else total
    part.restart(Origin(url, _validator(answer), total))
    return total


def _total_of_rest(answer: requests.Response, origin: Origin, part: Part) -> int | None:
    """Check that the rest on offer continues what is there; returns the total length."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    total = int(found[2]) if found and found[2] != "*" else origin.total
    # Some servers ignore If-Range, so the rest of a changed file would be appended to the old beginning.
    same = _validator(answer) in (None, origin.validator) and total == origin.total
    if not found or int(found[1]) != part.size or not same:
        part.clear()
        raise Interrupted(f"{origin.url} has changed")
    return total


def _validator(answer: requests.Response) -> str | None:
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified")


def _retry_after(answer: requests.Response) -> float | None:
    text = answer.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    with contextlib.suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return None


@contextlib.contextmanager
def _network_errors(url: str) -> Iterator[None]:
    try:
        yield
    except requests.exceptions.SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise UserError(
                f"{url}: the server's certificate cannot be verified; if your network has its own, "
                "set REQUESTS_CA_BUNDLE."
            ) from None
        raise Interrupted(f"{url}: {_reason(error)}", answered=False) from None
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
        raise Interrupted(f"{url}: {_reason(error)}", answered=False) from None
    except requests.exceptions.ChunkedEncodingError as error:
        raise Interrupted(f"{url}: {_reason(error)}") from None
    except requests.exceptions.RequestException as error:
        raise UserError(f"{url} cannot be asked for: {error}.") from None
    except urllib3.exceptions.HTTPError as error:  # while reading
        raise Interrupted(f"{url}: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """Return the innermost cause in a few words."""
    if isinstance(error, (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError)):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy cannot be reached"
    text = str(error)
    for words, reason in (
        ("IncompleteRead", "the connection was dropped"),
        ("RemoteDisconnected", "the connection was dropped"),
        ("reset by peer", "the connection was dropped"),
        ("Connection refused", "connection refused"),
        ("NameResolution", "the name cannot be resolved"),
        ("unreachable", "the network is unreachable"),
    ):
        if words in text:
            return reason
    return type(error).__name__
