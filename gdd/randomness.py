"""Random streams that depend on what they are for, never on what was drawn before.

A stream is named by (seed, purpose, index). Nothing has to be saved to resume a run, and the values are
the same however the work is split over processes: they are always drawn on the CPU.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def stream(seed: int, purpose: str, index: int) -> torch.Generator:
    """Return a fresh generator for the `index`-th use of `purpose`."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def noise(seed: int, purpose: str, index: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Return unit Gaussian noise of `shape` from the stream (seed, purpose, index)."""
    return torch.randn(shape, generator=stream(seed, purpose, index))


def latents(seed: int, start: int, count: int, shape: tuple[int, int, int]) -> torch.Tensor:
    """Return the latents of images `start` to `start + count` as `[count, C, H, W]`.

    Every image has a stream of its own, so image i is the same in any split over batches.
    """
    return torch.stack([noise(seed, "latent", index, shape) for index in range(start, start + count)])


def labels(seed: int, start: int, count: int, classes: int) -> torch.Tensor:
    """Return uniformly random class indices `[count]` of images `start` to `start + count`."""
    streams = (stream(seed, "label", index) for index in range(start, start + count))
    return torch.stack([torch.randint(classes, (), generator=generator) for generator in streams])


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
