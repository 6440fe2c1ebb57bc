"""Trust on first use, mirrors, offline mode and the command itself."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from rich.progress import Progress as RichProgress

import gdd.fetch.fetch as module
from gdd.config.local import Local
from gdd.config.sources import Source
from gdd.errors import UserError
from gdd.fetch.fetch import Resources, choose, fetch
from gdd.fetch.listing import listing
from gdd.fetch.lock_file import Entry, read_lock, record
from gdd.fetch.progress import Bar, Lines, readable

pytestmark = pytest.mark.slow  # real connections, broken in many ways

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(witness: Any) -> Path:
    path: Path = witness.final.parent
    path.mkdir()
    return path


@pytest.fixture
def run(folder: Path, witness: Any, patience: Any) -> Any:
    """Fetch sources by name into `folder`; returns the names of those that had to be."""

    def call(sources: dict[str, Source], local: Local | None = None, **options: Any) -> list[str]:
        return fetch(sources, Resources(folder, local or Local()), witness, patience=patience, **options)

    return call


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "getaddrinfo", "socketpair"):
        monkeypatch.setattr(socket, name, refuse)


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


# Progress without a terminal


def test_lines_come_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines(iter([0.0, 1.0, 11.0, 12.0]).__next__)
    caplog.set_level("INFO", "gdd")
    lines.name("x")
    lines.begin(500, 2000)
    for done in (600, 1000, 1500):
        lines.update(done)
    assert [entry.message for entry in caplog.records] == ["x: 2 kB, 500 bytes are there", "x: 1 kB (50%)"]


def test_a_bar_on_a_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with RichProgress(console=console) as bars:
        bar = Bar(bars)
        for name in ("one.bin", "two.bin"):
            bar.name(name)
            bar.begin(500, 2000)
            bar.update(2000)
        bar.say("a [sentence]")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.index("a [sentence]") < shown.rindex("two.bin")
    assert [(task.description, task.completed, task.total) for task in bars.tasks] == [
        ("one.bin", 2000, 2000),
        ("two.bin", 2000, 2000),
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "size unknown"), (999, "999 bytes"), (170498071, "170 MB"), (1.2e12, "1.2e+03 GB")],
)
def test_readable(count: float | None, text: str) -> None:
    assert readable(count) == text


# The command


@pytest.fixture
def config(tmp_path: Path, source: Source) -> Path:
    path = tmp_path / "config"
    path.mkdir()
    (path / "sources.yaml").write_text(yaml.safe_dump({"sources": {"x": source.model_dump()}}))
    return path


@pytest.fixture
def gdd(config: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """Call `gdd fetch` in this process; returns its status and what it says."""
    from gdd import cli

    def call(*arguments: str) -> tuple[int, str, str]:
        options = ["--config", str(config), "--resources", str(folder)]
        monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a process of its own
        monkeypatch.setattr(logging, "captureWarnings", lambda _: None)
        monkeypatch.setattr(sys, "argv", ["gdd", "fetch", *options, *arguments])
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        return status, *capsys.readouterr()

    return call


def test_ctrl_c_leaves_what_the_same_command_goes_on_from(
    config: Path, server: Any, folder: Path, gdd: Any
) -> None:
    server.next(slow=0.1)
    command = [sys.executable, "-m", "gdd.cli", "fetch", "x", "--config", str(config)]
    process = subprocess.Popen(
        [*command, "--resources", str(folder)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background has them ignore Ctrl-C, which a child inherits.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    part = folder / "file.bin.part"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (part.exists() and part.stat().st_size > 500_000):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("gdd: interrupted.\n")
    assert {path.name for path in folder.iterdir()} == {"file.bin.part", "file.bin.part.json"}
    status, _, err = gdd("--all")
    assert status == 0
    assert err.endswith("1 fetched, 0 were there; all verified.\n")
    assert (folder / "file.bin").read_bytes() == server.content
    assert int((server.requests[1][1] or "").removeprefix("bytes=").removesuffix("-")) > 500_000


@pytest.mark.parametrize("how", ["flag", "local"])
def test_the_command_offline(config: Path, how: str, gdd: Any, folder: Path, no_network: None) -> None:
    if how == "local":
        (config / "local.yaml").write_text("offline: true\n")
    status, out, err = gdd("--all", *(["--offline"] if how == "flag" else []))
    assert (status, out) == (2, "")
    assert err.startswith("gdd: Offline, and 1 file is missing. Put each where its first line says")
    assert f"\n  {folder / 'file.bin'}\n" in err


def test_the_command_leaves_a_note_that_depends_on_the_content_alone(
    gdd: Any, folder: Path, tmp_path: Path, source: Source
) -> None:
    note = tmp_path / "x.json"
    assert gdd("x", "--note", str(note))[0] == 0
    told = json.loads(note.read_text())
    assert told == {"x": {"path": source.path, "sha256": sha256((folder / source.path).read_bytes())}}
    first = note.read_bytes()
    (folder / source.path).unlink()
    note.unlink()
    assert gdd("x", "--note", str(note))[0] == 0
    assert note.read_bytes() == first


def test_the_command_without_a_configuration(gdd: Any, config: Path) -> None:
    (config / "sources.yaml").unlink()
    assert gdd("x") == (2, "", f"gdd: {config}/sources.yaml does not exist; --config says where it lies.\n")


def test_the_command_lists(gdd: Any, no_network: None) -> None:
    status, out, err = gdd("--list")
    assert (status, err) == (0, "")
    assert out.startswith("x: missing\n    a test\n")


def test_nothing_asked_for(gdd: Any) -> None:
    sentence = "gdd: Name what to fetch, or use --all; --list shows what there is.\n"
    assert gdd() == (2, "", sentence)
