from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch

from gdd.errors import UserError
from gdd.training import distributed
from gdd.training.distributed import ALONE, FAILED, ProcessLost, World, join


class Board:
    """What processes write to, as a dictionary."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def set(self, key: str, value: str) -> None:
        self.values[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.values[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)


def test_one_process_says_and_sums_nothing() -> None:
    assert ALONE.main
    assert ALONE.hear("text") == "text"
    assert (ALONE.any(True), ALONE.any(False), ALONE.minimum(3)) == (True, False, 3)
    tensor = torch.ones(2)
    ALONE.sum([tensor])
    assert torch.equal(tensor, torch.ones(2))
    with join("cpu") as world:
        assert (world.size, world.device.type) == (1, "cpu")


def test_the_others_hear_what_the_main_process_says_in_its_order() -> None:
    board = Board()
    main, other = World(0, 2, store=board), World(1, 2, store=board)
    heard: list[str] = []
    listener = threading.Thread(target=lambda: heard.extend(other.hear("not asked") for _ in range(2)))
    listener.start()
    assert main.hear("first") == "first"
    time.sleep(0.05)
    main.hear("")
    listener.join(10)
    assert heard == ["first", ""]


def test_whoever_waits_learns_of_a_failure() -> None:
    board = Board()
    board.set(FAILED, "")
    with pytest.raises(ProcessLost, match="the same command resumes the run"):
        World(1, 2, store=board).hear()


def test_tensors_are_summed_in_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []

    class Done:
        def wait(self) -> None: ...

    def all_reduce(tensor: torch.Tensor, async_op: bool) -> Any:
        sent.append(tensor.numel())
        tensor.mul_(2)
        return Done()

    monkeypatch.setattr(distributed, "BUCKET", 10)
    monkeypatch.setattr(distributed.dist, "all_reduce", all_reduce)
    tensors = [torch.full(shape, float(n)) for n, shape in enumerate([(4,), (2, 3), (30,), (3,), (1, 1, 1)])]
    expected = [2 * tensor for tensor in tensors]
    World(0, 2).sum(tensors)
    assert all(torch.equal(one, other) for one, other in zip(tensors, expected, strict=True))
    assert sent == [10, 30, 4]


def test_a_broken_connection_is_a_lost_process_but_full_memory_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for raised, expected in (
        (RuntimeError("Connection closed by peer"), ProcessLost),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError),
    ):

        def fail(*_: Any, error: Exception = raised, **__: Any) -> None:
            raise error

        monkeypatch.setattr(distributed.dist, "all_reduce", fail)
        with pytest.raises(expected):
            World(0, 2).any(True)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="torch sees none"), join("cuda"):
        pass
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="has 2 GPUs, but more processes were started"), join():
        pass


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "LOCAL_RANK"])
def test_a_variable_that_is_no_number(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "")
    with (
        pytest.raises(UserError, match=f"{variable} is '', not a whole number; unset it"),
        join(),
    ):
        pass
