"""What `gdd fetch` says of files it does not fetch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gdd.config.sources import Source
from gdd.fetch.progress import readable


def missing_message(missing: Mapping[str, Source], folder: Path) -> str:
    """Return what to put where, for a machine that must not use a network."""
    count = "1 file is" if len(missing) == 1 else f"{len(missing)} files are"
    lines = [f"Offline, and {count} missing. Put each where its first line says, then run the same command:"]
    for source in missing.values():
        lines += [f"  {folder / source.path}", f"    {source.url}", f"    {_facts(source)}"]
    return "\n".join(lines)


def listing(sources: Mapping[str, Source], folder: Path) -> str:
    """Return name, state, place, facts and use of every source; reads no file's content."""
    lines = []
    for name, source in sources.items():
        lines += [
            f"{name}: {_state(folder / source.path)}",
            f"    {source.use}",
            f"    {folder / source.path}",
            f"    {source.url}",
            f"    {_facts(source)}",
        ]
    return "\n".join(lines)


def _state(path: Path) -> str:
    part = path.with_name(f"{path.name}.part")
    if path.is_file():
        return f"present ({readable(path.stat().st_size)})"
    return f"begun ({readable(part.stat().st_size)} are there)" if part.is_file() else "missing"


def _facts(source: Source) -> str:
    size = "size unknown" if source.bytes is None else f"{source.bytes:,} bytes"
    return f"{size}; {source.checksum or 'no published checksum'}; licence: {source.licence}"
