"""This process's share of every batch, in the parts that go through the networks at once.

All random numbers belong to groups, the images over which the discriminator's batch norm takes statistics:
they come from (seed, purpose, index of the group), and do not depend on how a batch is split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from gdd.data.image_array import ImageArray, to_signed
from gdd.data.loader import Batch, Batches
from gdd.randomness import noise, stream
from gdd.training.layout import Layout
from gdd.training.world import World


@dataclass(frozen=True)
class Part:
    """Real images [b, C, H, W] in [-1, 1] with one-hot labels [b, n] or None, consecutive in a batch."""

    images: Tensor
    class_labels: Tensor | None
    position: int  # of the first image in the endless stream of images
    batch: int  # images in the whole batch
    z: Tensor | None = None  # unit noise for as many generated images

    @property
    def weight(self) -> float:
        """Of the part's mean in the mean over the batch."""
        return len(self.images) / self.batch

    @property
    def index(self) -> int:
        """Which group of the run the part is, if it is one."""
        return self.position // len(self.images)

    def tensors(self) -> dict[str, Tensor]:
        """Return what of it lies on the device, by name."""
        of = {"images": self.images, "class_labels": self.class_labels, "z": self.z}
        return {name: tensor for name, tensor in of.items() if tensor is not None}

    def split(self, size: int) -> list[Part]:
        """Return its parts of `size` images each."""
        result = []
        for start in range(0, len(self.images), size):
            rows = slice(start, start + size)
            labels = None if self.class_labels is None else self.class_labels[rows]
            result.append(Part(self.images[rows], labels, self.position + start, self.batch))
        return result


class Shares:
    """Gives the parts of one batch after the other, and the random numbers that belong to them.

    With `classes` 0 there are no labels; `flip` mirrors each image with probability 1/2.
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
        # Working ahead hides disk and noise where a GPU computes; the CPU has nothing to spare for it.
        self.ahead = self.device.type != "cpu"
        self._thread = ThreadPoolExecutor(1)
        self._drawn: dict[tuple[str, int], tuple[int, Future[Tensor]]] = {}  # by purpose and place in a batch

    def parts(self, position: int, at_once: int) -> list[Part]:
        """Return this process's parts of the batch that begins at image `position`, `at_once` images each."""
        if position != self._next:
            self._stream = self.batches.stream(position, prefetch=2 * self.ahead)
        batch = next(self._stream)
        self._next = position + self.layout.batch
        images = to_signed(batch.images.to(self.device, non_blocking=True))
        one_hot = None
        if self.classes:
            labels = batch.labels.to(self.device, non_blocking=True)
            one_hot = functional.one_hot(labels, self.classes).float()
        return Part(images, one_hot, batch.position, self.layout.batch).split(at_once)

    def noise(self, purpose: str, part: Part, shape: tuple[int, ...]) -> Tensor:
        """Return unit noise [b, *shape] for a part, on the device; that of the next batch follows."""
        place, count = (purpose, part.position % self.layout.batch), len(part.images)
        found = self._drawn.pop(place, None)
        if found and found[0] == part.position and (drawn := found[1].result()).shape == (count, *shape):
            unit = drawn
        else:
            unit = self._noise(purpose, part.position, count, shape)
        if self.ahead:
            following = part.position + self.layout.batch
            future = self._thread.submit(self._noise, purpose, following, count, shape)
            self._drawn[place] = following, future
        return unit.to(self.device, non_blocking=True)

    def with_noise(self, purpose: str, parts: list[Part], shape: tuple[int, ...]) -> list[Part]:
        """Return the parts, each with its `noise`."""
        return [replace(part, z=self.noise(purpose, part, shape)) for part in parts]

    def _noise(self, purpose: str, position: int, count: int, shape: tuple[int, ...]) -> Tensor:
        size = (self.layout.group, *shape)
        unit = self._of_rows(position, count, lambda index: noise(self.seed, purpose, index, size))
        return unit.pin_memory() if torch.cuda.is_available() else unit

    def uniform(self, purpose: str, part: Part, width: int) -> Tensor:
        """Return uniform numbers [b, width] in [0, 1) for a part, float64 on the CPU."""
        size = (self.layout.group, width)

        def of_group(index: int) -> Tensor:
            return torch.rand(size, generator=stream(self.seed, purpose, index), dtype=torch.float64)

        return self._of_rows(part.position, len(part.images), of_group)

    def groups(self, part: Part) -> range:
        """Return the indices, in the run, of the groups that a part lies in."""
        return self._groups(part.position, len(part.images))

    def _groups(self, position: int, count: int) -> range:
        return range(position // self.layout.group, (position + count - 1) // self.layout.group + 1)

    def _of_rows(self, position: int, count: int, of_group: Callable[[int], Tensor]) -> Tensor:
        """Cut the rows of consecutive images out of those of the groups they lie in."""
        rows = torch.cat([of_group(index) for index in self._groups(position, count)])
        offset = position % self.layout.group
        return rows[offset : offset + count]
