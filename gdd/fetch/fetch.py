"""`gdd fetch`: bring files below `resources/`, or say what is missing there."""

from __future__ import annotations

import difflib
import errno
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests
from rich.filesize import decimal

from gdd.config.local import Local
from gdd.config.sources import Source
from gdd.errors import UserError
from gdd.fetch.download import Download, Unreachable, discard, open_session, shown
from gdd.fetch.lock_file import Entry, difference, measure, read_lock, record
from gdd.files import locked
from gdd.progress import Display


@dataclass(frozen=True)
class Resources:
    """A folder of fetched files and what is known of each."""

    folder: Path
    local: Local = field(default_factory=Local)

    def has(self, source: Source, *, again: bool = False) -> bool:
        """Whether the file is there and verified; it is read only if it has changed, or `again`.

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
        try:
            record(self.folder, source.path, found)
        except OSError as error:
            # A shared folder nobody may write to is used as it is, only read again each time.
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
        return True

    def place(self, source: Source) -> str | Path:
        """Return where to get the file: its URL, or what `mirrors` makes of it (the longest prefix counts).

        Raises:
            UserError: a mirror is neither a URL, `file:` nor a path.
        """
        prefix = max(filter(source.url.startswith, self.local.mirrors), key=len, default=None)
        if prefix is None:
            return source.url
        mirrored = self.local.mirrors[prefix] + source.url.removeprefix(prefix)
        parts = urlsplit(mirrored)
        if parts.scheme in ("http", "https"):
            return mirrored
        if parts.scheme == "file" and not parts.netloc:
            return Path(url2pathname(parts.path))
        if parts.scheme == "":
            return Path(mirrored).expanduser()
        raise UserError(f"local.yaml: the mirror {shown(mirrored)!r} is neither http(s), file: nor a path.")

    def get(self, source: Source, session: requests.Session, display: Display) -> None:
        """Fetch the file, verify it, give it its name; wait where another process is fetching it.

        Raises:
            UserError: it cannot be had, or is not what was expected. What has come so far stays in
                `<path>.part`, except wrong bytes, which are removed.
        """
        final = self.folder / source.path
        lock = final.with_name(f".{final.name}.lock")
        with locked(lock, waiting=lambda: display.say(f"{final}: another process is fetching it; waiting.")):
            if not final.exists():
                part = final.with_name(f"{final.name}.part")
                found = self._get_right(source, part, session, display)
                with part.open("rb") as file:
                    os.fsync(file.fileno())
                record(self.folder, source.path, found)
                part.replace(final)
                discard(part)
            lock.unlink(missing_ok=True)  # nobody needs it now that the file is there
        self.has(source)  # if another process made it, what it made is checked as well

    def _get_right(self, source: Source, part: Path, session: requests.Session, display: Display) -> Entry:
        """Get the bytes and verify them; wrong ones may have been damaged on the way, so they come twice."""
        place, known = self.place(source), self._first(source)
        problem = None
        for _ in range(2):
            if problem:
                display.say(shown(f"{place}: {problem}; once more from the start."))
            if isinstance(place, Path):
                _copy(place, part)
            else:
                Download(session, place, source, part, display).run()
            found = measure(part, source.checksum)
            problem = difference(part, found, source, known)
            if not problem:
                return found
            discard(part)
        raise UserError(
            shown(f"{place} is not the expected file, twice, and was removed: {problem}; ")
            + "if the publisher has replaced the file and you trust the new one, correct config/sources.yaml "
            "or delete the file's lines in lock.yaml; else try a mirror."
        )

    def _first(self, source: Source) -> Entry | None:
        """Return what the copy fetched first was, while its checksum is still the published one."""
        known = read_lock(self.folder).get(source.path)
        return known if known and known.checksum == source.checksum else None


def _copy(place: Path, part: Path) -> None:
    try:
        shutil.copyfile(place, part)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"The mirror has no file {place} ({error.strerror}); see `mirrors`.") from None


def choose(sources: Mapping[str, Source], names: Iterable[str]) -> dict[str, Source]:
    """Return the sources of these names.

    Raises:
        UserError: one does not exist.
    """
    chosen = {}
    for name in names:
        if name not in sources:
            near = difflib.get_close_matches(name, sources, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else "; `gdd fetch --list` shows all."
            raise UserError(f"There is no '{name}' in sources.yaml{hint}")
        chosen[name] = sources[name]
    return chosen


def fetch(
    sources: Mapping[str, Source], resources: Resources, *, offline: bool = False, verify: bool = False
) -> list[str]:
    """Bring every source below `resources.folder`; returns the names of those that had to be fetched.

    What cannot be had does not keep the others from coming. Offline, only mirrors on this machine are used.

    Raises:
        UserError: some could not be had, or are missing offline: a sentence or an entry for each.
    """
    problems: list[str] = []
    missing: dict[str, Source] = {}
    fetched: list[str] = []
    silent: set[str] = set()  # servers that gave no answer; others of their files need not wait as long again
    with open_session() as session, Display() as display:
        for name, source in sources.items():
            server = ""
            try:
                if resources.has(source, again=verify):
                    continue
                place = resources.place(source)
                server = urlsplit(place).netloc if isinstance(place, str) else ""
                if offline and not (isinstance(place, Path) and place.is_file()):
                    missing[name] = source
                elif server in silent:
                    problems.append(shown(f"{place} was not tried: its server gave no answer before."))
                else:
                    resources.get(source, session, display)
                    fetched.append(name)
            except Unreachable as error:
                silent.add(server)
                problems.append(str(error))
            except UserError as error:
                problems.append(str(error))
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
