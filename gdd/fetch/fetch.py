"""`gdd fetch`: bring files below `resources/`, or say what is missing there."""

from __future__ import annotations

import contextlib
import difflib
import errno
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from gdd.config.local import Local
from gdd.config.sources import Source
from gdd.errors import UserError
from gdd.fetch.checksums import Expected, Measured, difference, measure, page_instead
from gdd.fetch.download import Downloader, Patience, Unreachable
from gdd.fetch.listing import missing_message
from gdd.fetch.lock_file import NAME as LOCK
from gdd.fetch.lock_file import Entry, read_lock, record
from gdd.fetch.progress import Progress
from gdd.fetch.transfer import open_session


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
        status = path.stat()
        known = read_lock(self.folder).get(source.path)
        expected = self.expected(source)
        unchanged = known and (known.bytes, known.mtime_ns) == (status.st_size, status.st_mtime_ns)
        agreed = known and known.checksum == source.checksum and source.bytes in (None, known.bytes)
        if unchanged and agreed and not again:
            return True
        measured = measure(path, source.checksum)
        problem = difference(measured, expected) or page_instead(path)
        if problem:
            raise UserError(_not_the_file(path, problem, expected))
        with _read_only_is_fine():
            self.accept(source, measured, status.st_mtime_ns)
        return True

    def expected(self, source: Source) -> Expected:
        """Return what the file has to be, the first copy's hash included."""
        known = read_lock(self.folder).get(source.path)
        # What was trusted before a checksum was published, or under another one, binds no longer.
        pinned = known.sha256 if known and known.checksum == source.checksum else None
        return Expected(source.bytes, source.checksum, pinned)

    def accept(self, source: Source, measured: Measured, mtime_ns: int) -> None:
        """Note in `lock.yaml` what the file is."""
        entry = Entry(
            sha256=measured.sha256, checksum=source.checksum, bytes=measured.bytes, mtime_ns=mtime_ns
        )
        record(self.folder, source.path, entry)

    def place(self, source: Source) -> str | Path:
        """Return where to get the file: its URL, or what `mirrors` makes of it (the longest prefix counts).

        Raises:
            UserError: a mirror is neither a URL, `file:` nor a path.
        """
        prefix = max(filter(source.url.startswith, self.local.mirrors), key=len, default=None)
        if prefix is None:
            return source.url
        mirrored = self.local.mirrors[prefix] + source.url.removeprefix(prefix)
        scheme = urlsplit(mirrored).scheme
        if scheme in ("http", "https"):
            return mirrored
        if scheme == "file" and not urlsplit(mirrored).netloc:
            return Path(url2pathname(urlsplit(mirrored).path))
        if scheme == "":
            return Path(mirrored).expanduser()
        raise UserError(
            f"local.yaml: the mirror {self.local.mirrors[prefix]!r} is neither http(s), file: nor a path."
        )

    def get(self, source: Source, downloader: Downloader) -> None:
        """Download the file, verify it, give it its name."""
        downloader.progress.name(source.path)
        downloader.get(
            self.place(source),
            self.folder / source.path,
            self.expected(source),
            partial(self.accept, source),
        )
        self.has(source)  # if another process made it, what it made is checked as well


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
    sources: Mapping[str, Source],
    resources: Resources,
    progress: Progress,
    *,
    offline: bool = False,
    verify: bool = False,
    patience: Patience | None = None,
) -> list[str]:
    """Bring every source below `resources.folder`; returns the names of those that had to be fetched.

    What cannot be had does not keep the others from coming. Offline, only mirrors on this machine are used.

    Raises:
        UserError: some could not be had, or are missing offline: a sentence or an entry for each.
    """
    problems: list[str] = []
    missing: dict[str, Source] = {}
    fetched: list[str] = []
    silent: set[str] = set()  # hosts that gave no answer; others of their files need not wait as long again
    with open_session() as session:
        downloader = Downloader(session, progress, patience or Patience())
        for name, source in sources.items():
            try:
                if resources.has(source, again=verify):
                    continue
                place = resources.place(source)
                if offline and not (isinstance(place, Path) and place.is_file()):
                    missing[name] = source
                elif isinstance(place, str) and urlsplit(place).netloc in silent:
                    problems.append(f"{place} was not tried: its server gave no answer before.")
                else:
                    resources.get(source, downloader)
                    fetched.append(name)
            except Unreachable as error:
                silent.add(urlsplit(str(resources.place(source))).netloc)
                problems.append(str(error))
            except UserError as error:
                problems.append(str(error))
    if missing:
        problems.append(missing_message(missing, resources.folder))
    if problems:
        raise UserError("\n".join(problems))
    return fetched


def _not_the_file(path: Path, problem: str, expected: Expected) -> str:
    sentence = f"{path} is not the expected file: {problem}"
    if expected.pinned and not expected.checksum:
        return (
            f"{sentence}, which is what was fetched first; delete it and fetch again, or, if you trust it, "
            f"delete its lines in {LOCK}."
        )
    return f"{sentence}; delete it and fetch again."


@contextlib.contextmanager
def _read_only_is_fine() -> Iterator[None]:
    """A shared folder nobody may write to is used as it is, only read again each time."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
