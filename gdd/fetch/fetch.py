"""`gdd fetch`: bring files below `resources/`, verified, or say what is missing there."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests
import yaml
from pydantic import Field
from rich.filesize import decimal

from gdd.config.local import Local
from gdd.config.record import NotNegative, Record, parse, read_yaml
from gdd.config.sources import Source
from gdd.errors import UserError, shown
from gdd.fetch.download import Check, Download, Unreachable, discard, note, open_session, problem_of
from gdd.files import locked, write_text
from gdd.progress import Display

LOCK = "lock.yaml"
HEADER = """\
# Written by `gdd fetch`. A file whose publisher gives no checksum is trusted the first time, and has to have
# the SHA-256 written here ever after. To accept another, delete the file and its lines here, and fetch again.
"""

# How the wrong files begin that servers give: a log-in page, an error, a pointer of Git LFS.
PAGE = (b"<!doctype", b"<html", b"<?xml", b"version https://git-lfs")

# How files begin, by their ending; what PyTorch saves (.pt, .pth) is a ZIP, or a pickle of protocol 2.
PICKLE, ZIP = tuple(bytes([0x80, protocol]) for protocol in range(2, 6)), (b"PK\3\4",)
BEGINNINGS = {
    ".pkl": PICKLE,
    ".npz": ZIP,
    ".zip": ZIP,
    ".pt": (*ZIP, *PICKLE),
    ".pth": (*ZIP, *PICKLE),
    ".gz": (b"\x1f\x8b",),
    ".tgz": (b"\x1f\x8b",),
}


class Entry(Record):
    """What a file was when it was last read from end to end."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    checksum: str | None  # the published one it agreed with; null: trusted on first use
    bytes: NotNegative
    mtime_ns: int  # with the size, tells whether it has to be read again


class Lock(Record):
    """`lock.yaml`: the entries by path below its folder."""

    files: dict[str, Entry] = {}


@dataclass(frozen=True)
class Resources:
    """A folder of fetched files and what is known of each."""

    folder: Path
    local: Local = field(default_factory=Local)

    def entries(self) -> dict[str, Entry]:
        """Return what lock.yaml says, by path; nothing if no file has been fetched yet.

        Raises:
            UserError: it is broken.
        """
        path = self.folder / LOCK
        return parse(Lock, read_yaml(path), path).files if path.exists() else {}

    def record(self, path: str, entry: Entry) -> None:
        """Add or replace one entry, whatever other processes add at the same time."""
        with locked(self.folder / f".{LOCK}.lock"):
            files = {**self.entries(), path: entry}
            plain = {"files": {key: files[key].model_dump() for key in sorted(files)}}
            write_text(self.folder / LOCK, HEADER + yaml.safe_dump(plain))

    def has(self, source: Source, *, again: bool = False, check: Check = lambda _: None) -> bool:
        """Whether the file is there, verified and checked; it is read only if it has changed, or `again`.

        Raises:
            UserError: another file stands in its place.
        """
        path = self.folder / source.path
        if not path.is_file():
            return False
        known, status = self._first(source), path.stat()
        if known and not again:
            size = known.bytes if source.bytes is None else source.bytes
            if (size, known.mtime_ns) == (status.st_size, status.st_mtime_ns):
                return True
        found = measure(path, source.checksum)
        if problem := difference(path, found, source, known):
            raise UserError(f"{path} is not the expected file: {problem}; delete it and fetch again.")
        check(path)
        try:
            self.record(source.path, found)
        except OSError as error:
            # A shared folder nobody may write to is used as it is, only read again each time.
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
        return True

    def place(self, source: Source) -> str | Path:
        """Return where to get the file: its URL, or what `mirrors` makes of it; the longest prefix counts."""
        prefix = max(filter(source.url.startswith, self.local.mirrors), key=len, default=None)
        if prefix is None:
            return source.url
        mirrored = self.local.mirrors[prefix] + source.url.removeprefix(prefix)
        if mirrored.startswith(("http:", "https:")):
            return mirrored
        file = mirrored.startswith("file:")
        return Path(url2pathname(urlsplit(mirrored).path) if file else mirrored).expanduser()

    def get(self, source: Source, session: requests.Session, display: Display, check: Check) -> None:
        """Fetch the file, verify and `check` it, give it its name; wait where another process fetches it.

        Raises:
            UserError: it cannot be had, or is not what was expected. What has come so far stays in
                `<path>.part`, except wrong bytes, which are removed.
        """
        final, place = self.folder / source.path, self.place(source)
        lock, part = final.with_name(f".{final.name}.lock"), final.with_name(f"{final.name}.part")
        with locked(lock, waiting=lambda: display.say(f"{final}: another process is fetching it; waiting.")):
            if not final.exists():
                if any(file.is_symlink() for file in (part, note(part))):
                    discard(part)  # or what comes would be written to another place
                if isinstance(place, Path):
                    _copy(place, part)
                else:
                    Download(session, place, source, part, display).run()
                found = measure(part, source.checksum)
                if problem := difference(part, found, source, self._first(source)):
                    discard(part)
                    raise UserError(
                        shown(f"{place} is not the expected file and was removed: {problem}; ")
                        + "try once more, or a mirror; if the publisher has replaced the file and you trust "
                        "the new one, correct config/sources.yaml or delete the file's lines in lock.yaml."
                    )
                if problem := problem_of(part, final, check):
                    left = f"stays as {part}" if source.checksum else "was removed"
                    if source.checksum is None:
                        discard(part)
                    raise UserError(
                        f"{shown(str(place))} is not what is needed here: {problem}; it {left}; "
                        "try a mirror, or correct config/sources.yaml."
                    )
                with part.open("rb") as file:
                    os.fsync(file.fileno())
                self.record(source.path, found)
                part.replace(final)
                discard(part)
            lock.unlink(missing_ok=True)  # nobody needs it now that the file is there
        self.has(source)  # if another process made it, what it made is checked as well

    def _first(self, source: Source) -> Entry | None:
        """Return what the copy fetched first was, while its checksum is still the published one."""
        known = self.entries().get(source.path)
        return known if known and known.checksum == source.checksum else None


def measure(path: Path, checksum: str | None) -> Entry:
    """Read a file and return what it is, with a checksum of the same kind as the given one."""
    kind, _, value = (checksum or "").partition(":")
    status = path.stat()
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        found = sha256[: len(value)]
        file.seek(0)
        if kind == "md5":
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        elif kind == "git-blob":  # what `git hash-object` prints
            start = hashlib.sha1(b"blob %d\0" % status.st_size, usedforsecurity=False)
            found = hashlib.file_digest(file, lambda: start).hexdigest()
    measured = f"{kind}:{found}" if checksum else None
    return Entry(sha256=sha256, checksum=measured, bytes=status.st_size, mtime_ns=status.st_mtime_ns)


def difference(path: Path, found: Entry, source: Source, first: Entry | None) -> str | None:
    """Return in which way a file is not its source's, or not the copy fetched first; None if it is."""
    if found.checksum != source.checksum:
        return f"its checksum is {found.checksum} instead of {source.checksum}"
    if first and found.sha256 != first.sha256:
        return f"its SHA-256 is {found.sha256} instead of {first.sha256}, that of the copy fetched first"
    if source.bytes not in (None, found.bytes):
        return f"its size is {found.bytes:,} instead of {source.bytes:,} bytes"
    with path.open("rb") as file:
        start = file.read(256)
    if start.lstrip().lower().startswith(PAGE):
        return "it is a web page or a pointer, not the file itself"
    ending = PurePosixPath(source.path).suffix
    if source.checksum is None and not start.startswith(BEGINNINGS.get(ending, (b"",))):
        return f"by its content it is no {ending} file"
    return None


def _copy(place: Path, part: Path) -> None:
    try:
        shutil.copyfile(place, part)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"The mirror has no file {place} ({error.strerror}); see `mirrors`.") from None


def fetch(
    sources: Mapping[str, Source],
    resources: Resources,
    *,
    offline: bool = False,
    verify: bool = False,
    checks: Mapping[str, Check] = {},
) -> list[str]:
    """Bring every source below `resources.folder`; returns the names of those that had to be fetched.

    `checks`, by the source's name, read a file before it gets its own. What cannot be had does not keep the
    others from coming. Offline, only mirrors on this machine are used.

    Raises:
        UserError: some could not be had, or are missing offline: a sentence or an entry for each.
    """
    problems: list[str] = []
    missing: dict[str, Source] = {}
    fetched: list[str] = []
    silent: set[str] = set()  # servers that gave no answer; others of their files need not wait as long again
    with open_session() as session, Display() as display:
        for name, source in sources.items():
            place = resources.place(source)
            server = urlsplit(place).netloc if isinstance(place, str) else ""
            check = checks.get(name, lambda _: None)
            try:
                if resources.has(source, again=verify, check=check):
                    continue
                if offline and not (isinstance(place, Path) and place.is_file()):
                    missing[name] = source
                elif server in silent:
                    problems.append(shown(f"{place} was not tried: its server gave no answer before."))
                else:
                    resources.get(source, session, display, check)
                    fetched.append(name)
            except UserError as error:
                problems.append(str(error))
                if isinstance(error, Unreachable):
                    silent.add(server)
    if missing:
        problems.append(missing_message(missing, resources.folder))
    if problems:
        raise UserError("\n".join(problems))
    return fetched


def missing_message(missing: Mapping[str, Source], folder: Path) -> str:
    """Return what to put where, for a machine that must not use a network."""
    count = "1 file is" if len(missing) == 1 else f"{len(missing)} files are"
    lines = [f"Offline, and {count} missing. Put each where its first line says, then run the same command:"]
    for source in missing.values():
        lines += [f"  {folder / source.path}", f"    {shown(source.url)}", f"    {_facts(source)}"]
    return "\n".join(lines)


def listing(sources: Mapping[str, Source], folder: Path) -> str:
    """Return name, state, use, place and facts of every source; reads no file's content."""
    lines = []
    for name, source in sources.items():
        path = folder / source.path
        part = path.with_name(f"{path.name}.part")
        state = "missing"
        if path.is_file():
            state = f"present ({decimal(path.stat().st_size)})"
        elif part.is_file():
            state = f"begun ({decimal(part.stat().st_size)} are there)"
        lines += [f"{name}: {state}", *(f"    {fact}" for fact in (source.use, path, shown(source.url)))]
        lines.append(f"    {_facts(source)}")
    return "\n".join(lines)


def _facts(source: Source) -> str:
    size = "size unknown" if source.bytes is None else f"{source.bytes:,} bytes"
    return f"{size}; {source.checksum or 'no published checksum'}; licence: {source.licence}"
