"""Random weights that depend on a seed alone and leave the global random state as it was."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derived_seed(seed: int, *purpose: str | int) -> int:
    """Return a seed in [0, 2^63) for one purpose, independent of the seeds of all other purposes."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextlib.contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Make modules constructed inside draw their initial weights from `seed`, on the CPU.

    PyTorch's initialisers only know the default generator, so that one is borrowed and put back. It is seeded
    directly because `torch.manual_seed` would also reseed the generators of the accelerators.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        yield
