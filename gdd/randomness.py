"""Random streams that depend on what they are for, never on what was drawn before.

A stream is named by (seed, purpose, index). Nothing has to be saved to resume a run, and the numbers are
the same however the work is split over processes: they are always drawn on the CPU.
"""

from __future__ import annotations

import hashlib

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
    draws = [
        torch.randint(classes, (), generator=stream(seed, "label", index))
        for index in range(start, start + count)
    ]
    return torch.stack(draws)
