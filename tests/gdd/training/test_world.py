from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from forked import in_processes

from gdd.errors import DivergedError, ProcessLost, Stopped, UserError
from gdd.training import world as module
from gdd.training.world import ALONE, World, join, own_device

GPU = torch.device("cuda", 0)


def run(count: int, function: Callable[[World], None]) -> list[int]:
    """Call `function` in so many processes and return how they ended: 4 if one was lost."""

    def work(_: int) -> None:
        try:
            with join("cpu") as world:
                function(world)
        except ProcessLost:
            os._exit(4)
        except Stopped:
            os._exit(5)

    return in_processes(count, work, seconds=60)


def test_one_process_has_nobody_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    rows, tensor = torch.ones(2, 3), torch.ones(2)
    ALONE.all_reduce([tensor])
    assert ALONE.main
    assert (ALONE.broadcast("text"), ALONE.all_gather("text")) == ("text", ["text"])
    assert (ALONE.any(True), ALONE.any(False)) == (True, False)
    assert ALONE.gather(rows)[0] is rows
    assert torch.equal(tensor, torch.ones(2))
    with pytest.raises(DivergedError, match="it"), ALONE.same_error():
        raise DivergedError("it")
    with join("cpu") as world:
        assert world == ALONE


def test_what_three_processes_exchange() -> None:
    def talk(world: World) -> None:
        assert world.broadcast({"a": [world.rank, None]}) == {"a": [0, None]}
        assert world.all_gather(7 - world.rank) == [7, 6, 5]
        assert [world.any(world.rank == rank) for rank in (2, 3)] == [True, False]

        shapes = [(4,), (2, 3), (30,), (3,), (1, 1, 1)]
        tensors = [torch.full(shape, float(world.rank + n)) for n, shape in enumerate(shapes)]
        world.all_reduce(tensors)
        for n, (tensor, shape) in enumerate(zip(tensors, shapes, strict=True)):
            assert torch.equal(tensor, torch.full(shape, 3.0 + 3 * n))

        rows = torch.arange(12.0).reshape(6, 2)
        parts = world.gather(rows[[slice(0, 4), slice(4, 4), slice(4, 6)][world.rank]])
        assert [len(part) for part in parts] == ([4, 0, 2] if world.main else [])
        assert not world.main or torch.equal(torch.cat(parts), rows)

        for at_fault, kind in ((0, UserError), (2, DivergedError)):
            with pytest.raises(kind, match=f"^rank {at_fault}$"), world.same_error():
                if world.rank >= at_fault:
                    raise kind(f"rank {world.rank}")
        with world.same_error():
            pass

    assert run(3, talk) == [0, 0, 0]


@pytest.mark.slow
def test_a_slower_process_is_waited_for_beyond_the_limit_of_a_collective(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LOST_AFTER", timedelta(seconds=1))

    def sleep(world: World) -> None:
        for slow in range(2):
            time.sleep(1.5 * (world.rank == slow))
            assert world.broadcast(1) == 1
            assert len(world.gather(torch.ones(1))) == (2 if world.main else 0)
        time.sleep(1.5 * world.main)  # the end is one together, too

    assert run(2, sleep) == [0, 0]


def crash(world: World) -> None:
    world.any(False)
    if world.rank == 1:
        raise ValueError
    world.gather(torch.ones(1))


def killed(world: World) -> None:
    world.any(False)
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    world.any(False)


def main_killed(world: World) -> None:
    world.any(False)
    if world.main:
        os.kill(os.getpid(), signal.SIGKILL)
    world.broadcast(1)


def stopped(world: World) -> None:
    raise Stopped


@pytest.mark.parametrize(
    ("function", "ended"), [(crash, [4, 1]), (killed, [4, -9]), (main_killed, [-9, 4]), (stopped, [5, 5])]
)
def test_a_lost_process_is_noticed(function: Callable[[World], None], ended: list[int]) -> None:
    assert run(2, function) == ended


@pytest.mark.slow
def test_a_process_that_does_not_answer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOST_AFTER", timedelta(seconds=1))

    def silent(world: World) -> None:
        time.sleep(2 * world.rank)
        world.any(False)

    assert run(2, silent) == [4, 4]


def test_full_memory_is_no_lost_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module.dist, "all_reduce", full)
    with pytest.raises(torch.OutOfMemoryError):
        World(0, 2).any(True)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_every_batch_belongs_to_one_process_in_order(size: int) -> None:
    whole = list(ALONE.batches(10, 23, 5))
    assert whole == [(10, 5), (15, 5), (20, 5), (25, 5), (30, 3)]
    parts = [list(World(rank, size).batches(10, 23, 5)) for rank in range(size)]
    assert [batch for part in parts for batch in part] == whole
    assert parts[0]  # the main process always sees an image
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert own_device("auto") == own_device("cpu") == torch.device("cpu")
    assert (ALONE.memory_format, ALONE.describe()) == (torch.contiguous_format, {"processes": 1})
    with pytest.raises(UserError, match="torch sees none"):
        own_device("cuda")
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A GPU")
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.backends, "cudnn", SimpleNamespace())
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace())
    monkeypatch.setenv("LOCAL_RANK", "1")
    for tf32 in (True, False):
        assert own_device("auto", tf32=tf32) == torch.device("cuda", 1)
        assert torch.backends.cuda.matmul.allow_tf32 is tf32
        facts = {"processes": 4, "device": "A GPU", "tf32": tf32, "channels_last": True}
        assert World(0, 4, GPU).describe() == facts
    assert chosen == [torch.device("cuda", 1)] * 2
    assert own_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="has 2 GPUs, but more processes were started"):
        own_device("auto")
