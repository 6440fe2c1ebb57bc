"""This process's share of every batch, on its device, in the parts that go through the networks together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gdd.data.image_array import ImageArray, to_signed
from gdd.data.loader import Batch, Batches
from gdd.distill.objectives import RealImages
from gdd.randomness import noise, stream
from gdd.training.layout import Layout
from gdd.training.world import World


@dataclass(frozen=True)
class Part:
    """Real images `[b, C, H, W]` in [-1, 1] with one-hot labels or None, and where in the batch they stand.

    `position` is that of the first image in the endless stream of images, `weight` the part's share in a mean
    over the batch.
    """

    images: Tensor
    class_labels: Tensor | None
    position: int
    weight: float

    def groups(self, size: int) -> list[RealImages]:
        """Return the groups of `size` images that the part consists of."""
        result = []
        for start in range(0, len(self.images), size):
            labels = None if self.class_labels is None else self.class_labels[start : start + size]
            index = (self.position + start) // size
            result.append(RealImages(self.images[start : start + size], labels, index))
        return result


class Shares:
    """Gives the parts of one batch after the other.

    Args:
        data: the real images.
        seed: of their order and of the noise.
        layout: which images are this process's.
        world: this process among all.
        classes: of the labels; 0 leaves them out.
        flip: mirror every image with probability 1/2.
    """

    def __init__(
        self, data: ImageArray, seed: int, layout: Layout, world: World, *, classes: int, flip: bool
    ) -> None:
        self.seed = seed
        self.layout = layout
        self.device = world.device
        self.classes = classes
        self.batches = Batches(
            data, seed, layout.batch, world.rank, world.size, group=layout.piece, flip=flip
        )
        self._stream: Iterator[Batch] = iter(())
        self._next = -1

    def parts(self, position: int, at_once: int) -> list[Part]:
        """Return this process's parts of the batch that begins at image `position`, `at_once` images each."""
        if position != self._next:
            # Reading ahead hides the disk where a GPU computes; the CPU has nothing to spare for it.
            ahead = 2 if self.device.type == "cuda" else 0
            self._stream = self.batches.stream(position, prefetch=ahead)
        batch = next(self._stream)
        self._next = position + self.layout.batch
        images = to_signed(batch.images.to(self.device, non_blocking=True))
        one_hot = None
        if self.classes:
            labels = batch.labels.to(self.device, non_blocking=True)
            one_hot = functional.one_hot(labels, self.classes).float()
        result = []
        for start in range(0, len(images), at_once):
            part = images[start : start + at_once]
            of_part = None if one_hot is None else one_hot[start : start + at_once]
            result.append(Part(part, of_part, batch.position + start, len(part) / self.layout.batch))
        return result

    def noise(self, purpose: str, part: Part, shape: tuple[int, ...]) -> Tensor:
        """Return unit noise `[b, *shape]` for a part.

        It is drawn by (seed, purpose, index of the group), so that no layout changes it.
        """
        size = self.layout.group
        return self._of_part(part, lambda index: noise(self.seed, purpose, index, (size, *shape))).to(
            self.device
        )

    def numbers(self, purpose: str, part: Part, draw: Callable[[int, torch.Generator], Tensor]) -> Tensor:
        """Return what `draw(count, generator)` gives for a part, on the CPU; drawn by group as noise is."""
        size = self.layout.group
        return self._of_part(part, lambda index: draw(size, stream(self.seed, purpose, index)))

    def _of_part(self, part: Part, of_group: Callable[[int], Tensor]) -> Tensor:
        """Cut a part's rows out of those of the groups it lies in."""
        size = self.layout.group
        first, offset = divmod(part.position, size)
        last = (part.position + len(part.images) - 1) // size
        drawn = [of_group(index) for index in range(first, last + 1)]
        whole = drawn[0] if len(drawn) == 1 else torch.cat(drawn)
        return whole[offset : offset + len(part.images)]
