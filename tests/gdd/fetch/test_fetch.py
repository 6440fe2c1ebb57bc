"""Trust on first use, mirrors and offline mode."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

import gdd.fetch.fetch as module
from gdd.config.local import Local
from gdd.config.sources import Source
from gdd.errors import UserError
from gdd.fetch.fetch import Resources, choose, fetch
from gdd.fetch.listing import listing
from gdd.fetch.lock_file import Entry, read_lock, record
from gdd.fetch.progress import Lines

pytestmark = pytest.mark.slow  # real connections, broken in many ways

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def run(folder: Path, witness: Any, patience: Any) -> Any:
    """Fetch sources by name into `folder`; returns the names of those that had to be."""

    def call(sources: dict[str, Source], local: Local | None = None, **options: Any) -> list[str]:
        return fetch(sources, Resources(folder, local or Local()), witness, patience=patience, **options)

    return call


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def touch(path: Path) -> None:
    """Give a file another time stamp."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


# Trust on first use


def test_the_first_copy_is_trusted_and_its_hash_kept(
    run: Any, folder: Path, source: Source, server: Any
) -> None:
    assert run({"x": source}) == ["x"]
    lock = yaml.safe_load((folder / "lock.yaml").read_text())
    assert lock["files"]["file.bin"]["sha256"] == sha256(server.content)
    assert lock["files"]["file.bin"]["checksum"] is None
    assert run({"x": source}) == []
    assert len(server.requests) == 1


def test_another_file_later_is_refused(run: Any, folder: Path, source: Source, server: Any) -> None:
    first = server.content
    run({"x": source})
    (folder / "file.bin").unlink()
    server.content = b"replaced"
    with pytest.raises(UserError) as caught:
        run({"x": source})
    assert sha256(first) in str(caught.value)
    assert sha256(server.content) in str(caught.value)
    assert "if you trust" not in str(caught.value)
    assert "delete its lines in lock.yaml and fetch again" in str(caught.value)
    assert {path.name for path in folder.iterdir()} == {"lock.yaml"}
    (folder / "lock.yaml").unlink()
    assert run({"x": source}) == ["x"]


def test_a_changed_file_is_refused_and_left_alone(run: Any, folder: Path, source: Source) -> None:
    run({"x": source})
    (folder / "file.bin").write_bytes(b"changed")
    with pytest.raises(
        UserError, match=r"is not the expected file: its SHA-256 is .* delete it and fetch again"
    ):
        run({"x": source})
    assert (folder / "file.bin").read_bytes() == b"changed"  # whoever changed it may want it


def test_a_file_put_there_by_hand_is_trusted_like_a_first_copy(
    run: Any, folder: Path, source: Source, server: Any
) -> None:
    (folder / "file.bin").write_bytes(b"by hand")
    assert run({"x": source}) == []
    assert read_lock(folder)["file.bin"].sha256 == sha256(b"by hand")
    assert not server.requests


def test_a_published_checksum_counts_from_the_first_time(run: Any, folder: Path, source: Source) -> None:
    (folder / "file.bin").write_bytes(b"by hand")
    strict = source.model_copy(update={"checksum": f"md5:{'0' * 32}"})
    with pytest.raises(UserError, match=r"its MD5 is .* instead of 0000"):
        run({"x": strict})
    assert not (folder / "lock.yaml").exists()


def test_a_checksum_published_later_takes_over(run: Any, source: Source, folder: Path, server: Any) -> None:
    run({"x": source})
    right = source.model_copy(update={"checksum": f"sha256:{sha256(server.content)}"})
    assert run({"x": right}) == []
    assert read_lock(folder)["file.bin"].checksum == right.checksum
    wrong = source.model_copy(update={"checksum": f"sha256:{'0' * 64}"})
    with pytest.raises(UserError, match="is not the expected file"):
        run({"x": wrong})
    longer = source.model_copy(update={"bytes": 5, "checksum": right.checksum})
    with pytest.raises(UserError, match="its size is 3,000,000 instead of 5 bytes"):
        run({"x": longer})


def test_a_file_is_read_again_only_if_it_has_changed(
    run: Any, source: Source, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    measure = module.measure
    monkeypatch.setattr(module, "measure", lambda path, *rest: read.append(path) or measure(path, *rest))
    run({"x": source})
    run({"x": source})
    assert read == []
    run({"x": source}, verify=True)
    assert len(read) == 1
    touch(folder / "file.bin")
    run({"x": source})
    run({"x": source})
    assert len(read) == 2


def test_verify_sees_what_the_time_stamp_hides(run: Any, source: Source, folder: Path, server: Any) -> None:
    run({"x": source})
    file = folder / "file.bin"
    before = file.stat().st_mtime_ns
    file.write_bytes(bytes(len(server.content)))
    os.utime(file, ns=(before, before))
    assert run({"x": source}) == []
    with pytest.raises(UserError, match="is not the expected file"):
        run({"x": source}, verify=True)


def test_a_folder_nobody_may_write_to(
    run: Any, source: Source, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "record", refuse)
    (folder / "file.bin").write_bytes(b"by hand")
    assert run({"x": source}) == []


# lock.yaml


def entry(number: int) -> Entry:
    return Entry(sha256=f"{number:064x}", checksum=None, bytes=number, mtime_ns=number)


def test_entries_of_many_threads_all_arrive_sorted(tmp_path: Path) -> None:
    names = [f"file-{number}" for number in range(24)]

    def add(part: list[str]) -> None:
        for name in part:
            record(tmp_path, name, entry(int(name[5:])))

    threads = [threading.Thread(target=add, args=(names[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_lock(tmp_path) == {name: entry(int(name[5:])) for name in names}
    assert list(read_lock(tmp_path)) == sorted(names)
    assert [path.name for path in tmp_path.iterdir()] == ["lock.yaml"]


@pytest.mark.parametrize("text", ["files: {a: {sha256: x}}", "fils: {}", "["])
def test_a_broken_lock_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock.yaml").write_text(text)
    with pytest.raises(UserError, match=r"lock\.yaml"):
        read_lock(tmp_path)


# Mirrors


def test_the_longest_prefix_counts(source: Source, tmp_path: Path) -> None:
    url = source.url
    base = url.removesuffix("file.bin")

    def place(**mirrors: str) -> str | Path:
        local = Local(
            mirrors={base.removesuffix("/") if key == "short" else base: to for key, to in mirrors.items()}
        )
        return Resources(tmp_path, local).place(source)

    assert place() == url
    assert place(short="https://m.org", long="https://n.org/x/") == "https://n.org/x/file.bin"
    assert place(long="file:/some/a%20folder/") == Path("/some/a folder/file.bin")
    assert place(long="file:///some/folder/") == Path("/some/folder/file.bin")
    assert place(long="/some/folder/") == Path("/some/folder/file.bin")
    assert place(long="~/folder/") == Path.home() / "folder/file.bin"
    with pytest.raises(UserError, match="is neither http"):
        place(long="file://host/x/")


def test_a_folder_replaces_the_network(
    run: Any, source: Source, folder: Path, tmp_path: Path, server: Any, no_network: None
) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "file.bin").write_bytes(b"mirrored")
    local = Local(mirrors={source.url.removesuffix("file.bin"): f"file:{tmp_path}/mirror/"})
    assert run({"x": source}, local, offline=True) == ["x"]
    assert (folder / "file.bin").read_bytes() == b"mirrored"
    assert read_lock(folder)["file.bin"].sha256 == sha256(b"mirrored")


def test_another_server_replaces_the_network(run: Any, source: Source, server: Any) -> None:
    elsewhere = source.model_copy(update={"url": "http://example.invalid/file.bin"})
    local = Local(mirrors={"http://example.invalid/": server.url.removesuffix("file.bin")})
    assert run({"x": elsewhere}, local) == ["x"]


# Several files


def others(source: Source) -> dict[str, Source]:
    names = ("a", "b", "c")
    return {name: source.model_copy(update={"path": f"file.bin{name}"}) for name in names}


def test_one_that_cannot_be_had_keeps_no_other_from_coming(
    source: Source, server: Any, tmp_path: Path
) -> None:
    server.next()
    server.next(status=404)
    with pytest.raises(UserError, match=r"^http://\S+ answers 404 Not Found; correct .*\.$"):
        fetch(others(source), Resources(tmp_path), Lines())
    assert {path.name for path in tmp_path.iterdir()} == {"file.bina", "file.binc", "lock.yaml"}


def test_a_silent_host_is_waited_for_once(run: Any, source: Source, witness: Any) -> None:
    silent = source.model_copy(update={"url": "http://127.0.0.1:9/file.bin"})
    with pytest.raises(UserError) as caught:
        run(others(silent))
    first, second, third = str(caught.value).splitlines()
    assert "connection refused, 4 times in a row" in first
    assert second == third
    assert "was not tried" in second
    assert len(witness.waits) == 3


def test_names_that_do_not_exist(source: Source) -> None:
    sources = {"cifar10": source, "inception": source}
    assert list(choose(sources, ["inception"])) == ["inception"]
    with pytest.raises(UserError, match=r"There is no 'cifar-10' in sources.yaml; did you mean cifar10\?"):
        choose(sources, ["cifar-10"])
    with pytest.raises(UserError, match="fetch --list"):
        choose(sources, ["zzz"])


# Offline


def test_offline_lists_all_that_is_missing_and_nothing_else(
    run: Any, source: Source, folder: Path, no_network: None
) -> None:
    wanted = others(source)
    wanted["b"] = wanted["b"].model_copy(update={"bytes": 1234, "checksum": f"md5:{'1' * 32}"})
    (folder / "file.binc").write_bytes(b"by hand")
    with pytest.raises(UserError) as caught:
        run(wanted, offline=True)
    assert str(caught.value).splitlines() == [
        "Offline, and 2 files are missing. Put each where its first line says, then run the same command:",
        f"  {folder}/file.bina",
        f"    {source.url}",
        "    size unknown; no published checksum; licence: none",
        f"  {folder}/file.binb",
        f"    {source.url}",
        f"    1,234 bytes; md5:{'1' * 32}; licence: none",
    ]


def test_offline_names_wrong_files_too(run: Any, source: Source, folder: Path, no_network: None) -> None:
    (folder / "file.bin").write_bytes(b"by hand")
    with pytest.raises(UserError, match="is not the expected file: its size is 7 instead of 5 bytes"):
        run({"x": source.model_copy(update={"bytes": 5})}, offline=True)


def test_the_listing_shows_how_far_each_is(source: Source, folder: Path) -> None:
    (folder / "file.bina").write_bytes(bytes(2000))
    (folder / "file.binb.part").write_bytes(bytes(3000))
    lines = listing(others(source), folder).splitlines()
    assert lines[0] == "a: present (2 kB)"
    assert lines[5] == "b: begun (3 kB are there)"
    assert lines[10] == "c: missing"
    assert len(lines) == 15
