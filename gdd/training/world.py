"""One training or evaluation in several processes: who takes part, and what they exchange.

Processes are started by `torchrun`, `gdd.training.launch`, or anything else that sets RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR and MASTER_PORT; without these there is one process. Rank 0, the main process, alone
writes files. Messages and rows go through the CPU; only gradients that lie on a GPU go through NCCL.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from gdd.errors import ProcessLost, UserError
from gdd.training.stop import Stopped

# A collective without an answer: compiling, the first touch of every file and a shared disk that hangs take
# minutes in one process and not in another. Whoever started a process that ends notices sooner.
LOST_AFTER = timedelta(minutes=10)
POLL = (0.01, 0.5)  # seconds between two looks for a message, rising
BAD_INPUT = 2  # exit status of the command line
FAILED = "failed"  # key that a process which ends with an error leaves for those that wait
LOST = "Another process of this run has ended or does not answer; the same command resumes the run."
CPU = torch.device("cpu")

ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class World:
    """This process among all, and its device. The default is one process on the CPU.

    `broadcast`, `gather` and `same_error` wait for the other processes as long as these take; the others give
    up after `LOST_AFTER`. All of them raise `ProcessLost` when another process has ended.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    store: Any = None  # key-value store of all processes (`torch.distributed.Store`)
    _messages: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def broadcast(self, value: ValueT) -> ValueT:
        """Return the main process's `value`."""
        if self.size == 1:
            return value
        key = f"{next(self._messages)}/0"
        if not self.main:
            return self._receive(key)
        with _connection():
            self.store.set(key, pickle.dumps(value))
        return value

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return bool(self._extreme(int(flag), dist.ReduceOp.MAX))

    def minimum(self, value: int) -> int:
        """Return the smallest value of all processes."""
        return self._extreme(value, dist.ReduceOp.MIN)

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over all processes, to the same bits in each of them."""
        if self.size == 1 or not tensors:
            return
        with _connection():
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            dist.all_reduce(flat)
            sums = flat.split([tensor.numel() for tensor in tensors])
            shaped = [one.view(tensor.shape) for one, tensor in zip(sums, tensors, strict=True)]
            torch._foreach_copy_(list(tensors), shaped)

    def gather(self, rows: Tensor) -> list[Tensor]:
        """Return every process's `rows` [N, ...] on the CPU, by rank, in the main process; else nothing.

        N may differ between processes, the other dimensions and the type may not.
        """
        rows = rows.cpu().contiguous()
        if self.size == 1:
            return [rows]
        counts = self._exchange(len(rows))
        with _connection():
            if not self.main:
                if len(rows):
                    dist.send(rows, 0)
                return []
            parts = [rows]
            for rank, count in enumerate(counts[1:], 1):
                part = rows.new_empty(count, *rows.shape[1:])
                if count:
                    dist.recv(part, rank)
                parts.append(part)
            return parts

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
        """Raise in every process the UserError that one of them raises inside.

        Raises:
            UserError: that of the lowest rank that has one.
        """
        if self.size == 1:
            yield
            return
        own: UserError | None = None
        try:
            yield
        except UserError as error:
            own = error
        for found in self._exchange(own):
            if found:
                raise found from own

    def subgroup(self, count: int) -> dist.ProcessGroup | None:
        """Return the group of `count` consecutive processes that this one belongs to."""
        mine = None
        for first in range(0, self.size, count):  # every process has to take part in making each group
            group = dist.new_group(list(range(first, first + count)), timeout=LOST_AFTER)
            if isinstance(group, dist.ProcessGroup) and first <= self.rank < first + count:
                mine = group
        return mine

    def _extreme(self, value: int, operation: dist.ReduceOp.RedOpType) -> int:
        if self.size == 1:
            return value
        with _connection():
            tensor = torch.tensor(value)
            dist.all_reduce(tensor, operation)
            return int(tensor)

    def _exchange(self, value: ValueT) -> list[ValueT]:
        """Return every process's value, by rank."""
        number = next(self._messages)
        with _connection():
            self.store.set(f"{number}/{self.rank}", pickle.dumps(value))
        return [self._receive(f"{number}/{rank}") for rank in range(self.size)]

    def _receive(self, key: str) -> Any:
        """Wait for a key of the store, as long as nobody has failed, and return its value."""
        pause, longest = POLL
        with _connection():
            while not self.store.check([key]):
                if self.store.check([FAILED]):
                    raise ProcessLost(LOST)
                time.sleep(pause)
                pause = min(2 * pause, longest)
            return pickle.loads(self.store.get(key))


ALONE = World()


@contextlib.contextmanager
def join(device: str = "auto", *, training: bool = False) -> Iterator[World]:
    """Take part in what this process was started for.

    Args:
        device: see `own_device`.
        training: every process needs a GPU of its own, and names its own errors. Otherwise processes may
            share a GPU, and the main one alone names bad input.

    Raises:
        UserError: a GPU is asked for where there is none, or too few; WORLD_SIZE or LOCAL_RANK is no number.
    """
    size, own = _number("WORLD_SIZE", 1), own_device(device, shared=not training)
    if size == 1:
        yield World(device=own)
        return
    with _connection():
        store, rank, size = next(rendezvous("env://", timeout=LOST_AFTER))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo",
            store=PrefixStore("collectives", store),
            rank=rank,
            world_size=size,
            timeout=LOST_AFTER,
        )
    world = World(rank, size, own, PrefixStore("messages", store))
    try:
        yield world
    except Stopped:  # which all processes agreed on
        _leave(world)
        raise
    except BaseException as error:
        # No orderly end, which would wait for processes that may be gone.
        with contextlib.suppress(RuntimeError):
            world.store.set(FAILED, "")
        if isinstance(error, UserError) and not (training or world.main):
            sys.exit(BAD_INPUT)
        raise
    _leave(world)


def own_device(wanted: str, *, shared: bool = True) -> torch.device:
    """Return where this process computes: `cpu`, `cuda`, or `auto` for a GPU wherever there is one.

    GPU n belongs to local rank n; where there are fewer GPUs, processes may share them if `shared`. Float32
    products are not rounded to TF32 there, as torch would let convolutions do.

    Raises:
        UserError: a GPU is asked for where there is none, or too few.
    """
    available, local_rank = torch.cuda.is_available(), _number("LOCAL_RANK", 0)
    if wanted == "cpu" or (wanted == "auto" and not available):
        return CPU
    if not available:
        raise UserError("A GPU is asked for, but torch sees none; use the CPU, or a torch built for the GPU.")
    count = torch.cuda.device_count()
    if local_rank >= count and not shared:
        raise UserError(
            f"This machine has {count} GPUs, but more processes were started on it; start one a GPU."
        )
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    device = torch.device("cuda", local_rank % count)
    torch.cuda.set_device(device)  # or whatever names no device would take memory of the first one
    return device


def _leave(world: World) -> None:
    """End when all others do, because the store may live in the main process."""
    world._exchange(None)  # however long the slowest takes
    world.any(False)  # or the main one could end while others still look into its store
    dist.destroy_process_group()


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal():
        raise UserError(f"{variable} is {text!r}, not a whole number; unset it, or use torchrun.")
    return int(text)


@contextlib.contextmanager
def _connection() -> Iterator[None]:
    """Turn the many errors of a broken connection into one."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ProcessLost(LOST) from error
