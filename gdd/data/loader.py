"""Batches for training, straight from the image array to memory the GPU can fetch from."""

from __future__ import annotations

import functools
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
    """The endless stream of images that training sees: a new permutation, and new flips, every epoch.

    The position in the stream, a count of images, says everything; only the latest epoch is cached.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self._of_epoch = functools.lru_cache(1)(self._draw)  # a thread reads ahead

    def indices(self, position: int, count: int) -> np.ndarray:
        """Return which images stand at `position` to `position + count`."""
        return self._cut(position, count)[0]

    def mirrored(self, position: int, count: int) -> np.ndarray:
        """Return which of these are mirrored, bool `[count]`, each with probability 1/2."""
        return self._cut(position, count)[1].astype(bool)

    def _cut(self, position: int, count: int) -> np.ndarray:
        parts = [np.empty((2, 0), np.int64)]
        while count > 0:
            epoch, offset = divmod(position, self.count)
            parts.append(self._of_epoch(epoch)[:, offset : offset + count])
            position += parts[-1].shape[1]
            count -= parts[-1].shape[1]
        return np.concatenate(parts, axis=1)

    def _draw(self, epoch: int) -> np.ndarray:
        permutation = torch.randperm(self.count, generator=stream(self.seed, "epoch order", epoch))
        mirrored = torch.randint(2, (self.count,), generator=stream(self.seed, "flips", epoch))
        return torch.stack([permutation, mirrored]).numpy()


class Batch(NamedTuple):
    """One rank's share of a batch."""

    images: Tensor  # uint8 [b, H, W, C], page-locked where there is a GPU, to which it is copied meanwhile
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
        flip: mirror each image with probability 1/2.
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
    ) -> None:
        self.array = array
        self.batch = batch
        self.flip = flip
        groups = batch // group
        self.start, self.stop = (group * (index * groups // world) for index in (rank, rank + 1))
        self._order = EpochOrder(len(array), seed)

    def at(self, position: int) -> Batch:
        """Return this rank's share of the batch that begins at image `position` of the stream.

        The position in the result is that of the share. With more ranks than groups a share can be empty.
        """
        first, size = position + self.start, self.stop - self.start
        indices, pin = self._order.indices(first, size), torch.cuda.is_available()
        images = torch.empty((size, *self.array.images.shape[1:]), dtype=torch.uint8, pin_memory=pin)
        # One copy, from the memory map to its destination; any mode but "raise" does without a buffer.
        np.take(self.array.images, indices, axis=0, out=images.numpy(), mode="clip")
        if self.flip:
            mirrored = np.flatnonzero(self._order.mirrored(first, size))
            # A pixel as one item, because numpy reverses whole items twice as fast as their channels.
            pixels = images.numpy().view(f"V{images.shape[-1]}")
            pixels[mirrored] = pixels[mirrored, :, ::-1]
        labels = torch.from_numpy(self.array.labels[indices])
        return Batch(images, labels.pin_memory() if pin else labels, first)

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
