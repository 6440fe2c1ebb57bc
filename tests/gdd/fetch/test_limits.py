"""What a server must not do: lead to where nothing is encrypted, go on for ever, send something else."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import requests
import torch

from gdd.config.sources import Source
from gdd.errors import UserError
from gdd.fetch import download
from gdd.fetch.fetch import Resources, difference, measure

pytestmark = pytest.mark.slow  # real connections

PART = {"file.bin.part", "file.bin.part.tag"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# Redirects


@pytest.mark.parametrize(
    ("start", "target", "words"),
    [
        (
            "https://a.invalid/x",
            "http://me:secret@b.invalid/x",
            "'http://b.invalid/x', which is not encrypted",
        ),
        ("https://a.invalid/x", "file:///etc/passwd", "which is not encrypted; it is not used"),
        ("http://a.invalid/x", "ftp://b.invalid/x", "which is not encrypted; it is not used"),
        ("https://a.invalid/x", "http://[", "leads to 'http://[', which is no address"),
        ("https://a.invalid/x", "/y", ""),
        ("https://a.invalid/x", "//b.invalid/y", ""),
        ("http://a.invalid/x", "http://b.invalid/y", ""),
        ("http://a.invalid/x", "https://b.invalid/y", ""),
    ],
)
def test_no_hop_of_a_redirect_drops_the_encryption(start: str, target: str, words: str) -> None:
    made = requests.Response()
    made.status_code, made.url, made.headers["Location"] = 302, start, target
    made.raw = SimpleNamespace(close=lambda: None)
    with download.open_session() as session:
        session.plain = start.startswith("http:")
        if not words:
            assert session.get_redirect_target(made) == target
            return
        with pytest.raises(UserError) as caught:
            session.get_redirect_target(made)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("plain", [True, False])
def test_what_began_unencrypted_may_go_on_so(plain: bool) -> None:
    """http -> https -> http."""
    with download.open_session() as session:
        session.mount("https://", Redirects())
        session.mount("http://", Redirects())
        if plain:
            assert session.get("http://a.invalid/").url == "http://c.invalid/"
            return
        with pytest.raises(UserError, match=r"leads to 'http://c\.invalid/', which is not encrypted"):
            session.get("https://a.invalid/")


class Redirects(requests.adapters.BaseAdapter):
    """Leads any address to https://b.invalid/, and that to http://c.invalid/."""

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        made = requests.Response()
        made.request, made.url, made._content = request, str(request.url), b""
        made.raw = SimpleNamespace(close=lambda: None)
        target = {"a": "https://b.invalid/", "b": "http://c.invalid/"}.get(made.url.split("/")[2][0])
        made.status_code = 302 if target else 200
        if target:
            made.headers["Location"] = target
        return made

    def close(self) -> None:
        pass


def test_a_redirect_is_not_read(get: Any, server: Any) -> None:
    server.next(status=302, headers={"Location": "/elsewhere"}, hang=True, announce=10**9)
    assert get() == [None, None]


# Limits


@pytest.mark.parametrize("announce", [3_000_000, None])
def test_a_file_of_unknown_size_has_a_limit(
    announce: int | None, refused: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MOST", 1_000_000)
    server.next(announce=announce)
    sentence, left = refused(checksum=None)
    assert "has more than 1,000,000 bytes, and config/sources.yaml does not say how many" in sentence
    assert left == set()


def test_no_more_comes_than_the_known_size(
    refused: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = server.content * 10
    sentence, left = refused(bytes=1_000_000)
    found = re.search(r"its size is ([\d,]+) instead of 1,000,000 bytes", sentence)
    assert found
    assert int(found[1].replace(",", "")) <= 1_000_000 + download.CHUNK
    assert left == set()


def test_a_server_that_drips(refused: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SLOWEST", 0.15)
    server.next(times=9, slow=0.1, ranges=False)
    sentence, left = refused()
    assert "less than 1,048,576 bytes in 0.15 seconds, 6 times in a row" in sentence
    assert left == PART


def test_headers_that_drip(refused: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SLOWEST", 0.1)
    server.next(times=9, drip=True)
    sentence, left = refused()
    assert "cannot be reached (no whole answer in 0.1 seconds); check the network" in sentence
    assert left == set()
    assert len(server.requests) == 6


@pytest.mark.parametrize("length", ["9" * 5000, "-3", "²"])
def test_a_length_that_is_no_number(length: str, get: Any, server: Any) -> None:
    server.next(announce=None, headers={"Content-Length": length})
    assert get(bytes=3_000_000) == [None]


@pytest.mark.parametrize("name", ["file.bin.part", "file.bin.part.tag"])
def test_nothing_is_written_through_a_link(name: str, get: Any, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("not ours")
    (folder / name).symlink_to(other)
    assert get() == [None]
    assert other.read_text() == "not ours"


# Content

WEIGHTS = {"weight": torch.zeros(2)}


def saved(zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(WEIGHTS, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(2))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("a.pkl", pickle.dumps({}, 2)),
        ("a.pkl", pickle.dumps({})),
        ("a.npz", zipped()),
        ("a.pt", saved(zipped=True)),
        ("a.pth", saved(zipped=False)),
        ("a.tar.gz", gzip.compress(b"a", mtime=0)),
    ],
)
def test_what_is_trusted_on_first_use_is_recognised(
    name: str, right: bytes, folder: Path, source: Source
) -> None:
    resources = Resources(folder)
    named = source.model_copy(update={"path": name})
    for wrong in (b"", b"#!/bin/sh\n", b'{"error": "log in"}', right[1:]):
        (folder / name).write_bytes(wrong)
        with pytest.raises(UserError, match=rf"by its content it is no {Path(name).suffix} file; delete it"):
            resources.has(named)
        assert resources.entries() == {}
        # A checksum says more.
        known = named.model_copy(update={"checksum": f"sha256:{sha256(wrong)}"})
        assert difference(folder / name, measure(folder / name, known.checksum), known, None) is None
    (folder / name).write_bytes(right)
    assert resources.has(named)
