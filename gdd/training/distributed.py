"""Several processes as one: who takes part in a run, and the few things they say to each other.

Every process is started by `torchrun` or anything else that sets its variables (RANK, WORLD_SIZE, LOCAL_RANK,
MASTER_ADDR, MASTER_PORT); without them a run is one process. All of them hold the same weights: gradients are
summed, everything else follows. Rank 0, the main process, alone writes files.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from gdd.errors import ProcessLost, UserError
from gdd.training.host_memory import keep_freed_memory
from gdd.training.stop import Stopped

# Without an answer from a process: compiling, the first touch of every file and a shared disk that hangs take
# minutes in one process and not in another. A process that ends is found sooner by whoever started it.
LOST_AFTER = timedelta(minutes=10)
POLL = (0.01, 0.5)  # seconds between two looks whether the main process has said something, rising
CPU = torch.device("cpu")
FAILED = "failed"  # what a process that ends with an error leaves behind for those who wait
BUCKET = 1 << 23  # elements that are summed in one message: 32 MiB of float32


LOST = "Another process of this run has ended or does not answer; the same command resumes the run."


@dataclass(frozen=True)
class World:
    """This process among all of a run, and its device. The default is a run of one process on the CPU."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    store: Any = None  # what all processes can write to and read from
    _messages: Iterator[int] = field(default_factory=itertools.count)

    @property
    def main(self) -> bool:
        """Whether this process writes checkpoints, snapshots and logs."""
        return self.rank == 0

    def hear(self, text: str = "") -> str:
        """Return what the main process passes to its own call of this; the others wait for it.

        They wait as long as it takes, so that it may spend any time on a disk or on a lock.

        Raises:
            ProcessLost: the main process has ended.
        """
        if self.store is None:
            return text
        key = f"message {next(self._messages)}"
        if self.main:
            self.store.set(key, text)
            return text
        pause, longest = POLL
        with _watched():
            while not self.store.check([key]):
                if self.store.check([FAILED]):
                    raise ProcessLost(LOST)
                time.sleep(pause)
                pause = min(2 * pause, longest)
            return str(self.store.get(key).decode())

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return self._extreme(float(flag), dist.ReduceOp.MAX) > 0

    def minimum(self, value: int) -> int:
        """Return the smallest value of all processes."""
        return int(self._extreme(float(value), dist.ReduceOp.MIN))

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over all processes, to the same bits in each of them."""
        if self.size == 1:
            return
        with _watched():
            buckets = [torch.cat([tensor.flatten() for tensor in part]) for part in _buckets(tensors)]
            pending = [dist.all_reduce(bucket, async_op=True) for bucket in buckets]
            for work, bucket, part in zip(pending, buckets, _buckets(tensors), strict=True):
                work.wait()  # type: ignore[union-attr]
                pieces = bucket.split([tensor.numel() for tensor in part])
                torch._foreach_copy_(
                    list(part), [piece.view(of.shape) for piece, of in zip(pieces, part, strict=True)]
                )

    def neighbours(self, count: int) -> dist.ProcessGroup | None:
        """Return the group of `count` consecutive processes that this one belongs to."""
        mine = None
        for first in range(0, self.size, count):  # every process has to take part in making each of them
            group = dist.new_group(list(range(first, first + count)), timeout=LOST_AFTER)
            if isinstance(group, dist.ProcessGroup) and first <= self.rank < first + count:
                mine = group
        return mine

    def _extreme(self, value: float, operation: dist.ReduceOp.RedOpType) -> float:
        if self.size == 1:
            return value
        with _watched():
            tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
            dist.all_reduce(tensor, operation)
            return tensor.item()


ALONE = World()


@contextlib.contextmanager
def join(device: str = "auto") -> Iterator[World]:
    """Take part in the run that this process was started for.

    Args:
        device: `cpu`, `cuda`, or `auto` for a GPU wherever there is one; GPU n belongs to local rank n.

    Raises:
        UserError: a GPU is asked for where there is none, or fewer than processes; or what starts processes
            left something else than a number.
    """
    size, local_rank = launched("WORLD_SIZE", 1), launched("LOCAL_RANK", 0)
    chosen = _device(device, local_rank)
    if chosen == CPU:
        keep_freed_memory()
    if size == 1:
        yield World(device=chosen)
        return
    store, rank, size = next(rendezvous("env://", timeout=LOST_AFTER))
    dist.init_process_group(
        "nccl" if chosen.type == "cuda" else "gloo",
        store=PrefixStore("collectives", store),
        rank=rank,
        world_size=size,
        timeout=LOST_AFTER,
    )
    world = World(rank, size, chosen, PrefixStore("messages", store))
    try:
        yield world
    except Stopped:  # which all processes agreed on
        _part(world)
        raise
    except BaseException:
        # Without an orderly end, which would wait for processes that may be gone.
        with contextlib.suppress(RuntimeError):
            world.store.set(FAILED, "")
        raise
    _part(world)


def _part(world: World) -> None:
    """End together, because what the processes talk through may live in the main one."""
    world.hear()  # it may still be writing
    world.any(False)
    dist.destroy_process_group()


def launched(variable: str, default: int) -> int:
    """Return a number that `torchrun` leaves in the environment.

    Raises:
        UserError: it is no number.
    """
    text = os.environ.get(variable, str(default))
    if not text.isdecimal():
        raise UserError(f"{variable} is {text!r}, not a whole number; unset it, or use torchrun.")
    return int(text)


def _device(wanted: str, local_rank: int) -> torch.device:
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("A GPU is asked for, but torch sees none; use the CPU, or a torch built for the GPU.")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"This machine has {torch.cuda.device_count()} GPUs, but more processes were started on it; "
            f"start one a GPU."
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Turn the many errors of a broken connection into one."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ProcessLost(LOST) from error


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Split the tensors, in their order, into lists of about `BUCKET` elements."""
    buckets: list[list[Tensor]] = []
    room = 0
    for tensor in tensors:
        if tensor.numel() > room or not buckets:
            buckets.append([])
            room = BUCKET
        buckets[-1].append(tensor)
        room -= tensor.numel()
    return buckets
