"""One evaluation by several processes: each sees a part of the images, the first one does the sums.

Started by `torchrun`, or anything else that sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; without them
there is one process. What is passed on lies on the CPU, so that the processes may use any devices.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gdd.errors import DivergedError, UserError
from gdd.training.distributed import launched
from gdd.training.host_memory import keep_freed_memory

BAD_INPUT = 2  # the status in which the command line ends
PATIENCE = timedelta(hours=12)  # the first process may be done with its part long before another

ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class Shards:
    """This process among those of an evaluation. The default is an evaluation of one process."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process does the sums, writes files and speaks."""
        return self.rank == 0

    def batches(self, start: int, count: int, batch: int) -> Iterator[tuple[int, int]]:
        """Yield this process's batches of the images `start` to `start + count` as (first index, size).

        Each process gets consecutive batches, and the batches are those of one process, so that an image
        goes through a network in the same company wherever it does.
        """
        batches = -(-count // batch)
        low, high = (-(-index * batches // self.size) for index in (self.rank, self.rank + 1))
        for index in range(low, high):
            yield start + index * batch, min(batch, count - index * batch)

    def gather(self, rows: Tensor) -> list[Tensor]:
        """Return every process's `rows` [N, ...] in the order of processes in the main one, else nothing.

        N may differ, but all that is behind it, and the type, may not.
        """
        if self.size == 1:
            return [rows]
        rows = rows.cpu().contiguous()
        counts = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([len(rows)]))
        if not self.main:
            if len(rows):
                dist.send(rows, 0)
            return []
        parts = [rows]
        for rank in range(1, self.size):
            part = rows.new_empty(int(counts[rank]), *rows.shape[1:])
            if len(part):
                dist.recv(part, rank)
            parts.append(part)
        return parts

    def hear(self, value: ValueT) -> ValueT:
        """Return what the main process passes to its own call of this."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, 0)
        return values[0]

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Raise in every process the UserError that one of them raises inside, so that none waits for it.

        Raises:
            UserError: that of the first process that has one.
        """
        error: UserError | None = None
        try:
            yield
        except UserError as raised:
            if self.size == 1:
                raise
            error = raised
        if self.size == 1:
            return
        told: list[tuple[bool, str] | None] = [None] * self.size
        dist.all_gather_object(told, (isinstance(error, DivergedError), str(error)) if error else None)
        for entry in told:
            if entry:
                diverged, sentence = entry
                raise (DivergedError if diverged else UserError)(sentence) from error


ALONE = Shards()


@contextlib.contextmanager
def join() -> Iterator[Shards]:
    """Take part in the evaluation that this process was started for.

    Of several processes with bad input only the main one says so.

    Raises:
        UserError: WORLD_SIZE is no number.
    """
    size = launched("WORLD_SIZE", 1)
    if size == 1:
        yield ALONE
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    shards = Shards(dist.get_rank(), dist.get_world_size())
    try:
        yield shards
    except UserError:
        if shards.main:
            raise
        sys.exit(BAD_INPUT)
    finally:
        dist.destroy_process_group()


def own_device(wanted: str) -> torch.device:
    """Return where this process's networks run: `cpu`, `cuda`, or `auto` for a GPU wherever there is one.

    Process n of a machine takes GPU n, or shares one where there are fewer. It computes in float32 there.

    Raises:
        UserError: a GPU is asked for where there is none.
    """
    there = torch.cuda.is_available()
    if wanted == "cpu" or (wanted == "auto" and not there):
        keep_freed_memory()
        return torch.device("cpu")
    if not there:
        raise UserError("A GPU is asked for, but torch sees none; use --device cpu.")
    # As in training: torch would let convolutions round the factors of products to 10 bits.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    device = torch.device("cuda", launched("LOCAL_RANK", 0) % torch.cuda.device_count())
    if "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(device)  # or whatever names no device would take memory of the first one
    return device
