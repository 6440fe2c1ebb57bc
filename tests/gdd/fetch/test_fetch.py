"""Trust on first use, checksums, mirrors and offline mode."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from gdd.config.local import Local
from gdd.config.sources import Source
from gdd.errors import UserError
from gdd.fetch import fetch as module
from gdd.fetch.fetch import Entry, Resources, listing, measure

pytestmark = pytest.mark.slow  # real connections


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# Checksums

CONTENTS = [b"", b"blob 3\0abc\r\n\xff", bytes(range(256)) * 4097]


@pytest.mark.parametrize("content", CONTENTS, ids=len)
def test_checksums_of_every_kind(run: Any, folder: Path, source: Source, content: bytes) -> None:
    file = folder / "file.bin"
    file.write_bytes(content)
    md5 = hashlib.md5(content).hexdigest()
    kinds = {"sha256": sha256(content), "sha256-prefix": sha256(content)[:8], "md5": md5}
    if shutil.which("git"):
        command = ["git", "hash-object", "--no-filters", str(file)]
        said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout
        kinds["git-blob"] = said.strip()
    for kind, value in kinds.items():
        right, wrong = f"{kind}:{value}", f"{kind}:{'0' * len(value)}"
        found = measure(file, wrong)
        assert (found.checksum, found.sha256, found.bytes) == (right, sha256(content), len(content))
        assert run({"x": source.model_copy(update={"checksum": right})}) == []
        with pytest.raises(
            UserError, match=f"its checksum is {right} instead of {wrong}; delete it and fetch"
        ):
            run({"x": source.model_copy(update={"checksum": wrong})})


# Trust on first use


def test_the_first_copy_is_trusted_and_another_refused(
    run: Any, folder: Path, source: Source, server: Any
) -> None:
    assert run({"x": source}) == ["x"]
    first = Resources(folder).entries()["file.bin"]
    assert (first.sha256, first.checksum) == (sha256(server.content), None)
    assert run({"x": source}) == []
    assert len(server.requests) == 1

    (folder / "file.bin").write_bytes(b"changed")
    with pytest.raises(
        UserError, match=r"is not the expected file: its SHA-256 is .* delete it and fetch ag"
    ):
        run({"x": source})
    assert (folder / "file.bin").read_bytes() == b"changed"  # whoever changed it may want it

    (folder / "file.bin").unlink()
    server.content = b"replaced"
    with pytest.raises(UserError) as caught:
        run({"x": source})
    assert f"its SHA-256 is {sha256(b'replaced')} instead of {first.sha256}" in str(caught.value)
    assert "delete the file's lines in lock.yaml" in str(caught.value)
    assert not list(folder.glob("file*"))
    (folder / "lock.yaml").unlink()
    assert run({"x": source}) == ["x"]


def test_a_file_put_there_by_hand_is_trusted_like_a_first_copy(
    run: Any, folder: Path, source: Source, server: Any
) -> None:
    (folder / "file.bin").write_bytes(b"by hand")
    assert run({"x": source}) == []
    assert Resources(folder).entries()["file.bin"].sha256 == sha256(b"by hand")
    assert not server.requests


def test_a_checksum_published_later_takes_over(run: Any, source: Source, folder: Path, server: Any) -> None:
    run({"x": source})
    right = source.model_copy(update={"checksum": f"sha256:{sha256(server.content)}"})
    assert run({"x": right}) == []
    assert Resources(folder).entries()["file.bin"].checksum == right.checksum
    longer = right.model_copy(update={"bytes": 5})
    with pytest.raises(UserError, match="its size is 3,000,000 instead of 5 bytes"):
        run({"x": longer})


def test_a_file_is_read_again_only_if_it_has_changed(
    run: Any, source: Source, folder: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    run({"x": source})
    monkeypatch.setattr(module, "measure", lambda path, *rest: read.append(path) or measure(path, *rest))
    run({"x": source})
    assert len(read) == 0
    run({"x": source}, verify=True)
    assert len(read) == 1
    file = folder / "file.bin"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    run({"x": source})
    run({"x": source})
    assert len(read) == 2
    before = file.stat().st_mtime_ns
    file.write_bytes(bytes(len(server.content)))
    os.utime(file, ns=(before, before))  # which hides the change
    assert run({"x": source}) == []
    with pytest.raises(UserError, match="is not the expected file"):
        run({"x": source}, verify=True)


def test_a_folder_nobody_may_write_to(
    run: Any, source: Source, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Resources, "record", refuse)
    (folder / "file.bin").write_bytes(b"by hand")
    assert run({"x": source}) == []


# lock.yaml


def entry(number: int) -> Entry:
    return Entry(sha256=f"{number:064x}", checksum=None, bytes=number, mtime_ns=number)


def test_entries_of_many_threads_all_arrive_sorted(tmp_path: Path) -> None:
    names = [f"file-{number}" for number in range(24)]

    def add(part: list[str]) -> None:
        for name in part:
            Resources(tmp_path).record(name, entry(int(name[5:])))

    threads = [threading.Thread(target=add, args=(names[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Resources(tmp_path).entries() == {name: entry(int(name[5:])) for name in names}
    assert list(Resources(tmp_path).entries()) == sorted(names)


@pytest.mark.parametrize("text", ["files: {a: {sha256: x}}", "fils: {}", "["])
def test_a_broken_lock_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock.yaml").write_text(text)
    with pytest.raises(UserError, match=r"lock\.yaml"):
        Resources(tmp_path).entries()


# Mirrors


@pytest.mark.parametrize(
    ("to", "place"),
    [
        ("https://n.org/x/", "https://n.org/x/file.bin"),
        ("file:/some/a%20folder/", Path("/some/a folder/file.bin")),
        ("file:///some/folder/", Path("/some/folder/file.bin")),
        ("/some/a%20folder/", Path("/some/a%20folder/file.bin")),
        ("~/folder/", Path.home() / "folder/file.bin"),
    ],
)
def test_the_longest_prefix_counts(source: Source, tmp_path: Path, to: str, place: str | Path) -> None:
    base = source.url.removesuffix("file.bin")
    mirrors = {base.removesuffix("/"): "https://m.org", base: to}
    assert Resources(tmp_path).place(source) == source.url
    assert Resources(tmp_path, Local(mirrors=mirrors)).place(source) == place


@pytest.mark.parametrize("kind", ["right", "missing", "folder", "wrong"])
def test_a_folder_replaces_the_network(
    run: Any, source: Source, folder: Path, tmp_path: Path, server: Any, no_network: None, kind: str
) -> None:
    mirror = tmp_path / "mirror" / "file.bin"
    mirror.mkdir(parents=True) if kind == "folder" else mirror.parent.mkdir()
    if kind in ("right", "wrong"):
        mirror.write_bytes(kind.encode())
    local = Local(mirrors={source.url.removesuffix("file.bin"): f"file:{tmp_path}/mirror/"})
    wanted = {"x": source.model_copy(update={"checksum": f"sha256:{sha256(b'right')}"})}
    if kind == "right":
        assert run(wanted, local, offline=True) == ["x"]
        assert (folder / "file.bin").read_bytes() == b"right"
        assert Resources(folder).entries()["file.bin"].sha256 == sha256(b"right")
    else:
        with pytest.raises(UserError, match="is not the expected fi" if kind == "wrong" else "has no file"):
            run(wanted, local)
        assert not list(folder.glob("file*"))


# Several files


def others(source: Source) -> dict[str, Source]:
    return {name: source.model_copy(update={"path": f"file.bin{name}"}) for name in ("a", "b", "c")}


def test_one_that_cannot_be_had_keeps_no_other_from_coming(
    run: Any, source: Source, server: Any, folder: Path
) -> None:
    server.next()
    server.next(status=404)
    with pytest.raises(UserError, match=r"^http://\S+ answers 404 Not Found; try again later, correct .*\.$"):
        run(others(source))
    assert {path.name for path in folder.glob("[a-z]*")} == {"file.bina", "file.binc", "lock.yaml"}


def test_a_silent_host_is_waited_for_once(run: Any, source: Source, witness: Any) -> None:
    with pytest.raises(UserError) as caught:
        run(others(source.model_copy(update={"url": "http://127.0.0.1:9/file.bin"})))
    first, second, third = str(caught.value).splitlines()
    assert "cannot be reached (Connection refused)" in first
    assert second == third == "http://127.0.0.1:9/file.bin was not tried: its server gave no answer before."
    assert len(witness.waits) == 4  # the first of five tries follows at once


# Offline


def test_offline_lists_all_that_is_missing_and_what_is_wrong(
    run: Any, source: Source, folder: Path, no_network: None
) -> None:
    wanted = others(source)
    wanted["b"] = wanted["b"].model_copy(update={"bytes": 1234, "checksum": f"md5:{'1' * 32}"})
    wanted["d"] = source.model_copy(update={"bytes": 5})
    (folder / "file.binc").write_bytes(b"by hand")
    (folder / "file.bin").write_bytes(b"by hand")
    with pytest.raises(UserError) as caught:
        run(wanted, offline=True)
    wrong, *lines = str(caught.value).splitlines()
    assert "file.bin is not the expected file: its size is 7 instead of 5 bytes" in wrong
    assert lines == [
        "Offline, and 2 files are missing. Put each where its first line says, then run the same command:",
        f"  {folder}/file.bina",
        f"    {source.url}",
        "    size unknown; no published checksum; licence: none",
        f"  {folder}/file.binb",
        f"    {source.url}",
        f"    1,234 bytes; md5:{'1' * 32}; licence: none",
    ]


def test_the_listing_shows_how_far_each_is(source: Source, folder: Path) -> None:
    (folder / "file.bina").write_bytes(bytes(2000))
    (folder / "file.binb.part").write_bytes(bytes(3000))
    lines = listing(others(source), folder).splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "a: present (2.0 kB)",
        "b: begun (3.0 kB are there)",
        "c: missing",
    ]
    assert lines[1:4] == ["    a test", f"    {folder}/file.bina", f"    {source.url}"]
