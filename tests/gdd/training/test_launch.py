from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from gdd.training import launch as module
from gdd.training.launch import Nodes, launch
from gdd.training.stop import STOPPED

pytestmark = pytest.mark.slow


def script(text: str) -> list[str]:
    return [sys.executable, "-S", "-c", f"import os, signal, sys, time\n{text}"]


def test_every_process_knows_its_place(tmp_path: Path) -> None:
    names = "RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT OMP_NUM_THREADS"
    write = (
        f"file = open(r'{tmp_path}/' + os.environ['RANK'], 'w')\n"
        f"file.write(' '.join(os.environ[name] for name in '{names}'.split()))"
    )
    assert launch(script(write), 2) == 0
    first, second = ((tmp_path / str(rank)).read_text().split() for rank in range(2))
    assert (first[:4], second[:4]) == (["0", "0", "2", "127.0.0.1"], ["1", "1", "2", "127.0.0.1"])
    assert first[4:] == second[4:]
    assert launch(script(write), 1, Nodes(3, 2, "first-node", 29500)) == 0
    assert (tmp_path / "2").read_text().startswith("2 0 3 first-node 29500")


@pytest.mark.parametrize(
    ("one", "status"),
    [("sys.exit(75)", STOPPED), ("sys.exit(2)", 2), ("os.kill(os.getpid(), 9)", 128 + signal.SIGKILL)],
)
def test_ends_as_the_first_process_that_fails_and_leaves_none_behind(
    monkeypatch: pytest.MonkeyPatch, one: str, status: int
) -> None:
    monkeypatch.setattr(module, "GRACE", 0.2)
    began = time.monotonic()
    assert launch(script(f"{one} if os.environ['RANK'] == '1' else time.sleep(60)"), 2) == status
    assert time.monotonic() - began < 20


def test_passes_a_request_to_stop_on(tmp_path: Path) -> None:
    obey = (
        f"signal.signal(signal.SIGUSR2, lambda *_: sys.exit({STOPPED}))\n"
        f"open(r'{tmp_path}/' + os.environ['RANK'], 'w').close()\n"
        "time.sleep(60)"
    )

    def ask() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.getsignal(signal.SIGUSR2)
    asking = threading.Thread(target=ask)
    asking.start()
    assert launch(script(obey), 2) == STOPPED
    asking.join()
    assert signal.getsignal(signal.SIGUSR2) is before
