from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gdd.errors import DivergedError, UserError
from gdd.metrics.frechet import Moments
from gdd.metrics.shards import ALONE, Shards, join, own_device

# Run in each of several processes: what one rank has to say goes to a file of its own.
SCRIPT = """
import sys, torch
from gdd.errors import DivergedError, UserError
from gdd.metrics.shards import join

with join() as shards:
    rows = torch.arange(12.0).reshape(6, 2)
    low, high = (0, 4) if shards.main else (4, 6)
    parts = shards.gather(rows[low:high])
    assert [part.tolist() for part in parts] == ([rows[:4].tolist(), rows[4:].tolist()] if shards.main else [])
    assert [len(part) for part in shards.gather(rows if shards.main else rows[:0])] == [6, 0][: 2 * shards.main]
    assert shards.hear(shards.rank) == 0
    for at_fault, kind in ((0, UserError), (1, DivergedError)):
        try:
            with shards.together():
                if shards.rank == at_fault:
                    raise kind(f"rank {at_fault}")
        except UserError as error:
            assert (type(error), str(error)) == (kind, f"rank {at_fault}")
        else:
            raise AssertionError("no error")
    with shards.together():
        pass
    print("fine")
    raise UserError("this only once")
"""


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_every_batch_belongs_to_one_process_in_order(size: int) -> None:
    whole = list(ALONE.batches(10, 23, 5))
    assert whole == [(10, 5), (15, 5), (20, 5), (25, 5), (30, 3)]
    parts = [list(Shards(rank, size).batches(10, 23, 5)) for rank in range(size)]
    assert [batch for part in parts for batch in part] == whole
    assert parts[0]  # the main process always sees an image
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join() as shards:
        assert shards is ALONE
        rows = torch.ones(2, 3)
        assert shards.gather(rows)[0] is rows
        assert shards.hear("x") == "x"
        with pytest.raises(DivergedError, match="it"), shards.together():
            raise DivergedError("it")


def test_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert own_device("auto") == own_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="torch sees none"):
        own_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert own_device("auto") == torch.device("cuda", 0)
    assert not chosen
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device("auto") == torch.device("cuda", 1)
    assert chosen == [torch.device("cuda", 1)]
    assert own_device("cpu") == torch.device("cpu")


def test_moments_can_be_passed_on() -> None:
    features = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    whole, total = Moments(3), Moments(3)
    whole.update(features)
    for part in (features[:13], features[13:], features[:0]):
        moments = Moments(3)
        moments.update(part)
        total.merge(Moments.unpacked(moments.packed()))
    expected, found = whole.gaussian(), total.gaussian()
    assert found.count == expected.count
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.covariance, expected.covariance, rtol=1e-12, atol=1e-14)


def torchrun(processes: int, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *command],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = torchrun(2, str(tmp_path / "script.py"))
    assert done.stdout.count("fine") == 2, done.stderr
    assert done.stderr.count("UserError: this only once") == 1
