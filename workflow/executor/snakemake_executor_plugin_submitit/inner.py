"""Snakemake itself, started with less work: what runs one job on its node.

Starting is nearly all that this process does on a processor, and garbage collection a tenth of that; NumPy is
imported (by a part of the report that is not used here) for another tenth. Rules that need it still get it.
"""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Be `python -m snakemake`."""
    gc.disable()
    numpy = sys.modules.get("numpy")
    if numpy is None:
        sys.modules["numpy"] = None  # type: ignore[assignment]
    from snakemake.cli import main as snakemake

    if numpy is None:
        del sys.modules["numpy"]
    gc.freeze()
    gc.enable()
    snakemake(sys.argv[1:])


if __name__ == "__main__":
    main()
