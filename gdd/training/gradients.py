"""Gradients between backward pass and optimizer: summed over all processes, without NaN and infinities."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gdd.training.world import World

LARGEST = 1e5  # what infinite entries become, as in the released GDD code
BUCKET = 25 * 2**18  # numbers that are summed in one message: 25 MiB, as in DistributedDataParallel

PartT = TypeVar("PartT")


class _Begun(NamedTuple):
    """A bucket on its way through the processes."""

    gradients: Sequence[Tensor]  # in memory order, as one dimension
    flat: Tensor  # a copy of them, one after the other
    work: dist.Work | None


class Gradients:
    """The gradients of an optimizer's parameters.

    Between processes a bucket of them is summed as soon as the last backward pass has gone through its
    parameters, while that pass goes on. A pass goes through them backwards, or nearly so.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], world: World) -> None:
        self.buckets: list[list[nn.Parameter]] = []
        size = 0
        for parameter in reversed(list(parameters)):
            if not self.buckets or size + parameter.numel() > BUCKET:
                self.buckets.append([])
                size = 0
            self.buckets[-1].append(parameter)
            size += parameter.numel()
        self._world: World | None = None  # in a backward pass that is the last
        self._missing: list[int] = []
        self._begun: list[_Begun] = []
        if world.size > 1:
            for index, bucket in enumerate(self.buckets):
                for parameter in bucket:
                    parameter.register_post_accumulate_grad_hook(lambda _, index=index: self._note(index))

    @contextlib.contextmanager
    def last_backward(self, world: World) -> Iterator[None]:
        """Enter for the backward pass that completes the gradients of this process's share of a batch."""
        self._world, self._missing = world, [len(bucket) for bucket in self.buckets]
        self._begun.clear()
        try:
            yield
        finally:
            self._world = None

    def until_complete(
        self, parts: Sequence[PartT], world: World | None
    ) -> Iterator[tuple[PartT, contextlib.AbstractContextManager[None]]]:
        """Yield every part and what its backward pass is to enter: the last one completes the gradients.

        Without `world` nothing is summed meanwhile.
        """
        for part in parts[:-1]:
            yield part, contextlib.nullcontext()
        yield parts[-1], self.last_backward(world) if world else contextlib.nullcontext()

    @torch.no_grad()
    def finish(self, world: World) -> Tensor:
        """Sum over all processes, and replace NaN by 0 and +-inf by +-1e5.

        Returns how many entries that were; nothing waits for that number, which stays on the device.
        """
        replaced = torch.zeros((), dtype=torch.int64, device=world.device)
        for index, bucket in enumerate(self.buckets):
            if index == len(self._begun):  # the backward pass has not gone through all of it
                self._begun.append(_begin(bucket, world))
            gradients, flat, work = self._begun[index]
            if not gradients:
                continue
            world.wait(work)
            finite = torch.nan_to_num(flat, nan=0.0, posinf=LARGEST, neginf=-LARGEST)
            replaced += (finite != flat).sum()
            torch._foreach_copy_(list(gradients), finite.split([len(gradient) for gradient in gradients]))
        self._begun.clear()
        return replaced

    def _note(self, index: int) -> None:
        """Note that another gradient of a bucket is complete."""
        if self._world is None:
            return
        self._missing[index] -= 1
        # In the same order in all processes.
        while len(self._begun) < len(self.buckets) and not self._missing[len(self._begun)]:
            self._begun.append(_begin(self.buckets[len(self._begun)], self._world))


@torch.no_grad()
def _begin(bucket: Sequence[nn.Parameter], world: World) -> _Begun:
    gradients = [parameter.grad for parameter in bucket if parameter.grad is not None]
    if not gradients:
        return _Begun([], torch.empty(0), None)
    in_memory_order = [gradient.as_strided((gradient.numel(),), (1,)) for gradient in gradients]
    flat = torch.cat(in_memory_order)
    return _Begun(in_memory_order, flat, world.begin_sum(flat))
