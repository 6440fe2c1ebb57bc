"""Which snapshots of a run stay."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path


def keep_only(folder: str | Path, images: Collection[int]) -> list[int]:
    """Remove the snapshots of the run in `folder` but those at these image counts; return which are gone.

    For recipes with `keep: reported`, once the run has been judged. Samples and metrics of the others stay.
    Both links of a snapshot are removed; a call that was interrupted can be repeated.
    """
    removed = set()
    for place in (Path(folder) / "snapshots", Path(folder) / "state" / "snapshots"):
        for path in sorted(place.glob("*.safetensors")):
            if int(path.stem) not in images:
                path.unlink()
                removed.add(int(path.stem))
    return sorted(removed)
