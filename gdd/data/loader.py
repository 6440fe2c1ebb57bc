"""Batches for training, straight from the image array to memory the GPU can fetch from."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gdd.data.image_array import ImageArray
from gdd.randomness import stream


class EpochOrder:
    """The order in which training sees the images: a new permutation every epoch.

    The position in the stream, a count of images, says everything: nothing is kept between calls but the
    latest permutation, as a cache.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        # One assignment, so that a thread reading ahead never sees an epoch with another's permutation.
        self._cached: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def indices(self, position: int, count: int) -> np.ndarray:
        """Return the indices of images `position` to `position + count` of the endless stream."""
        parts = [np.empty(0, np.int64)]
        while count > 0:
            epoch, offset = divmod(position, self.count)
            part = self._of_epoch(epoch)[offset : offset + count]
            parts.append(part)
            position += len(part)
            count -= len(part)
        return np.concatenate(parts)

    def _of_epoch(self, epoch: int) -> np.ndarray:
        cached, permutation = self._cached
        if cached != epoch:
            generator = stream(self.seed, "epoch order", epoch)
            permutation = torch.randperm(self.count, generator=generator).numpy()
            self._cached = (epoch, permutation)
        return permutation


class Batch(NamedTuple):
    """One rank's share of a batch."""

    images: Tensor  # uint8 [b, H, W, C]
    labels: Tensor  # int64 [b]
    position: int  # of its first image in the endless stream of images


class Batches:
    """The batches of a run, or one rank's shares of them.

    A batch is named by its position: the number of images all ranks have seen before it. Ranks take
    consecutive pieces of what `EpochOrder` gives for the whole batch, so that their union, in order, is the
    batch that a single process would see; nothing is kept between calls.

    Args:
        array: the images.
        seed: of the order and the flips.
        batch: images per batch, of all ranks together.
        rank: this process among `world`.
        world: the number of processes.
        group: images that must stay on one rank (statistics are taken over them); divides `batch`.
        flip: mirror each image with probability 1/2, decided by (seed, position of the image).
        pin: put batches into page-locked memory, from which copies to a GPU are asynchronous; by default
            wherever CUDA is available.
    """

    def __init__(
        self,
        array: ImageArray,
        seed: int,
        batch: int,
        rank: int = 0,
        world: int = 1,
        *,
        group: int = 1,
        flip: bool = False,
        pin: bool | None = None,
    ) -> None:
        self.array = array
        self.seed = seed
        self.batch = batch
        self.flip = flip
        self.pin = torch.cuda.is_available() if pin is None else pin
        groups = batch // group
        self.start, self.stop = (group * (index * groups // world) for index in (rank, rank + 1))
        self._order = EpochOrder(len(array), seed)

    def at(self, position: int) -> Batch:
        """Return this rank's share of the batch that begins at image `position` of the stream.

        The position in the result is that of the share. With more ranks than groups a share can be empty.
        """
        first, size = position + self.start, self.stop - self.start
        indices = self._order.indices(first, size)
        images = torch.empty((size, *self.array.images.shape[1:]), dtype=torch.uint8, pin_memory=self.pin)
        # One copy, from the memory map to its destination; any mode but "raise" does without a buffer.
        np.take(self.array.images, indices, axis=0, out=images.numpy(), mode="clip")
        if self.flip:
            mirrored = np.flatnonzero(flips(self.seed, first, size))
            # A pixel as one item, because numpy reverses whole items twice as fast as their channels.
            pixels = images.numpy().view(f"V{images.shape[-1]}")
            pixels[mirrored] = pixels[mirrored, :, ::-1]
        labels = torch.from_numpy(self.array.labels[indices])
        return Batch(images, labels.pin_memory() if self.pin else labels, first)

    def stream(self, position: int = 0, *, prefetch: int = 2) -> Iterator[Batch]:
        """Yield this rank's shares of one batch after the other, without end, from `position` on.

        `prefetch` batches are made ahead by a thread, which waits for the disk while the caller computes;
        with 0 there is no thread. The batches are the same. Closing the iterator ends the thread.
        """
        if not prefetch:
            while True:
                yield self.at(position)
                position += self.batch
        with ThreadPoolExecutor(1) as thread:
            ahead = deque(thread.submit(self.at, position + n * self.batch) for n in range(prefetch))
            while True:
                batch = ahead.popleft().result()
                ahead.append(thread.submit(self.at, position + prefetch * self.batch))
                yield batch
                position += self.batch


def flips(seed: int, position: int, count: int) -> np.ndarray:
    """Return which of the images `position` to `position + count` of the stream are mirrored, bool `[count]`.

    A hash of (seed, position), so that an image's flip does not depend on batches or ranks.
    """
    with np.errstate(over="ignore"):
        state = np.arange(position, position + count, dtype=np.uint64)
        # Two rounds of SplitMix64's output function (Steele et al. 2014), the first to spread the seed.
        state += _mix(np.full(1, seed, np.uint64))
        return (_mix(state) >> np.uint64(63)).astype(bool)


def _mix(value: np.ndarray) -> np.ndarray:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
