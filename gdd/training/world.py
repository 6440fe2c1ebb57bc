"""One training or evaluation in several processes: who takes part, and what they exchange.

Processes are started by `torchrun`, `gdd.training.processes`, or anything else that sets RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR and MASTER_PORT; without these there is one process. Rank 0, the main process, alone
writes files. Messages and rows go through the CPU; only gradients that lie on a GPU go through NCCL.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gdd.errors import ProcessLost, Stopped, UserError

# A collective without an answer: the first touch of every file and a shared disk that hangs take minutes in
# one process and not in another. Whoever started a process that ends notices sooner.
LOST_AFTER = timedelta(minutes=10)
PATIENT = timedelta(days=365)  # for messages; gloo notices by itself when a process ends
LOST = "Another process of this run has ended or does not answer; the same command resumes the run."
CPU = torch.device("cpu")

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Choices that belong to a machine; other ones give the same weights up to rounding.

    Args:
        device: `auto` is a GPU wherever there is one.
        images_at_once: that go through the networks together on one device, a multiple of the recipe's
            batch norm group; the rest of a device's share follows. None finds the most that fit into a GPU's
            memory, and is one group on a CPU.
        tf32: let a GPU round the factors of float32 products to 10 bits. The papers' runs do not.
        cuda_graphs: let a GPU run passes without waiting for the CPU, where that can be recorded.
        patience: steps in a row with a NaN or infinite loss after which a run ends.
    """

    device: str = "auto"
    images_at_once: int | None = None
    tf32: bool = False
    cuda_graphs: bool = False
    patience: int = 500


PLAIN = Execution()


@contextlib.contextmanager
def _connection() -> Iterator[None]:
    """Turn the many errors of a broken connection into one."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ProcessLost(LOST) from error


@dataclass(frozen=True)
class World:
    """This process among all, and its device. The default is one process on the CPU.

    `broadcast`, `gather`, `all_gather` and `same_error` wait for the other processes as long as these take;
    the others give up after `LOST_AFTER`. All of them raise `ProcessLost` when another process has ended.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    messages: Any = None  # the process group of those that wait

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    @property
    def memory_format(self) -> torch.memory_format:
        """In which images and weights suit the device."""
        return torch.channels_last if self.device.type == "cuda" else torch.contiguous_format

    def describe(self) -> dict[str, Any]:
        """Return what a run's record says of the machine, as plain JSON values."""
        facts: dict[str, Any] = {"processes": self.size}
        if self.device.type == "cuda":
            facts["device"] = torch.cuda.get_device_name(self.device)
            facts["tf32"] = torch.backends.cudnn.allow_tf32
            facts["channels_last"] = self.memory_format == torch.channels_last
        return facts

    @_connection()
    def broadcast(self, value: ValueT) -> ValueT:
        """Return the main process's `value`."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, group=self.messages)
        return values[0]

    @_connection()
    def all_gather(self, value: ValueT) -> list[ValueT]:
        """Return every process's value, by rank."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value, group=self.messages)
        return values

    @_connection()
    def gather(self, rows: Tensor) -> list[Tensor]:
        """Return every process's `rows` [N, ...] on the CPU, by rank, in the main process; else nothing."""
        parts = [rows.cpu()] * self.size if self.main else []
        if self.size > 1:
            dist.gather_object(rows.cpu(), parts or None, group=self.messages)
        return parts

    @_connection()
    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        if self.size == 1:
            return flag
        tensor = torch.tensor(int(flag))
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return bool(tensor)

    @_connection()
    def begin_sum(self, tensor: Tensor) -> dist.Work | None:
        """Begin to replace a tensor by its sum over all processes; `wait` for it before it is read."""
        return dist.all_reduce(tensor, async_op=True) if self.size > 1 else None

    @_connection()
    def wait(self, work: dist.Work | None) -> None:
        """Wait for what `begin_sum` began; on a GPU, whose kernels wait, this process does not."""
        if work:
            work.wait()

    @_connection()
    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over all processes, to the same bits in each of them."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        sums = flat.split([tensor.numel() for tensor in tensors])
        shaped = [one.view(tensor.shape) for one, tensor in zip(sums, tensors, strict=True)]
        torch._foreach_copy_(list(tensors), shaped)

    def batches(self, start: int, count: int, batch: int) -> Iterator[tuple[int, int]]:
        """Yield this process's batches of the images `start` to `start + count` as (first index, size).

        Each process gets consecutive batches, and they are those of one process, so that an image shares a
        batch with the same others whatever the number of processes.
        """
        batches = -(-count // batch)
        low, high = (-(-rank * batches // self.size) for rank in (self.rank, self.rank + 1))
        for index in range(low, high):
            yield start + index * batch, min(batch, count - index * batch)

    @contextlib.contextmanager
    def same_error(self) -> Iterator[None]:
        """Raise in every process the UserError that one of them, the first by rank, raises inside."""
        own: UserError | None = None
        try:
            yield
        except UserError as error:
            own = error
        for found in self.all_gather(own):
            if found:
                raise found

    def subgroup(self, count: int) -> dist.ProcessGroup | None:
        """Return the group of `count` consecutive processes that this one belongs to."""
        mine = None
        for first in range(0, self.size, count):  # every process has to take part in making each group
            group = dist.new_group(list(range(first, first + count)), timeout=LOST_AFTER)
            if isinstance(group, dist.ProcessGroup) and first <= self.rank < first + count:
                mine = group
        return mine


ALONE = World()


@contextlib.contextmanager
def join(device: str = "auto", *, tf32: bool = False) -> Iterator[World]:
    """Take part in what this process was started for, on the device that `own_device` gives it.

    Raises:
        UserError: a GPU is asked for where there is none, or too few.
    """
    own = own_device(device, tf32=tf32)
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield World(device=own)
        return
    with _connection():
        backend = "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=LOST_AFTER)
        messages = dist.new_group(backend="gloo", timeout=PATIENT)
    world = World(dist.get_rank(), dist.get_world_size(), own, messages)
    try:
        yield world
    except Stopped:  # on which all processes agreed
        _leave(world)
        raise
    _leave(world)  # after an error there is no orderly end: it would wait for processes that may be gone


def own_device(wanted: str, *, tf32: bool = False) -> torch.device:
    """Return where this process computes: `cpu`, `cuda`, or `auto` for a GPU wherever there is one.

    GPU n belongs to local rank n. Unless `tf32` is set, float32 products are not rounded there, as torch
    would let convolutions do.

    Raises:
        UserError: a GPU is asked for where there is none, or too few.
    """
    available, local_rank = torch.cuda.is_available(), int(os.environ.get("LOCAL_RANK", "0"))
    if wanted == "cpu" or (wanted == "auto" and not available):
        return CPU
    if not available:
        raise UserError("A GPU is asked for, but torch sees none; use the CPU, or a torch built for the GPU.")
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise UserError(
            f"This machine has {count} GPUs, but more processes were started on it; start one a GPU."
        )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)  # or whatever names no device would take memory of the first one
    return device


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to a device; the host does not wait for a GPU to take it."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def _leave(world: World) -> None:
    """End when all others do, however long the slowest takes: the store may live in the main process."""
    world.all_gather(None)
    dist.destroy_process_group()
