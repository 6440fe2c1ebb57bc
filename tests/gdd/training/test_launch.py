"""Processes of a run on one machine; and on several, with an srun that says what it was asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gdd.errors import STOPPED, UserError
from gdd.training import processes as module
from gdd.training.processes import Nodes, launch, own_place, spread

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
PATH = os.environ | {"PYTHONPATH": str(ROOT)}


def script(text: str) -> list[str]:
    return [sys.executable, "-S", "-c", f"import os, signal, sys, time\n{text}"]


def test_every_process_knows_its_place(tmp_path: Path) -> None:
    names = "RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT OMP_NUM_THREADS LOCAL_WORLD_SIZE"
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


def test_a_signal_that_is_ignored_here_ends_no_process_before_it_can_handle_it() -> None:
    early = "os.kill(os.getpid(), signal.SIGUSR2)"
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        assert launch(script(early), 1) == 0
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert launch(script(early), 1) == 128 + signal.SIGUSR2


@pytest.mark.parametrize(
    ("sent", "to_all", "received", "status"),
    [
        (["USR2"], False, {"USR2"}, STOPPED),
        (["TERM"], False, {"TERM"}, STOPPED),
        (["INT"], True, {"INT", "USR2"}, STOPPED),  # as Ctrl-C reaches a whole terminal: a request to stop,
        (["INT", "INT"], True, {"INT", "USR2"}, -signal.SIGINT),  # and a second one means now
        (["KILL"], False, {"TERM"}, -signal.SIGKILL),  # only Linux tells a process that its parent has ended
    ],
)
def test_processes_are_asked_to_stop(
    tmp_path: Path, sent: list[str], to_all: bool, received: set[str], status: int
) -> None:
    stubborn = len(sent) > 1
    obey = (  # one handler may interrupt another, so that none may end the process
        "asked, end = [], time.monotonic() + 60\n"
        "def note(number, _):\n"
        f"    open(r'{tmp_path}/' + os.environ['RANK'] + signal.Signals(number).name, 'w').close()\n"
        "    asked.append(number)\n"
        "for number in (signal.SIGINT, signal.SIGUSR2, signal.SIGTERM): signal.signal(number, note)\n"
        f"open(r'{tmp_path}/' + os.environ['RANK'] + 'ready', 'w').close()\n"
        f"while time.monotonic() < end and ({stubborn} or not {{*asked}} - {{signal.SIGINT}}): time.sleep(0.01)\n"
        f"sys.exit({STOPPED})"
    )
    code = f"import sys; from gdd.training.processes import launch; sys.exit(launch({script(obey)!r}, 2))"

    def wait_for(names: set[str]) -> None:
        deadline = time.monotonic() + 50
        while not {f"{rank}{name}" for rank in range(2) for name in names} <= {*os.listdir(tmp_path)}:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=PATH,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    ) as launcher:
        wait_for({"ready"})
        time.sleep(0.2)  # the launcher handles signals as soon as it has started them
        for name in sent:
            (os.killpg if to_all else os.kill)(launcher.pid, signal.Signals[f"SIG{name}"])
            wait_for({f"SIG{name}" for name in received})
        assert launcher.wait(timeout=60) == status
    assert len(os.listdir(tmp_path)) == 2 * (1 + len(received))


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


@pytest.mark.parametrize("cause", [0, 1], ids=["the main process", "another"])
def test_what_went_wrong_counts_more_than_that_others_lost_it(cause: int) -> None:
    """Also where the one with the error takes longer to end than those who noticed."""
    text = f"own = os.environ['RANK'] == '{cause}'\ntime.sleep(0.3 * own)\nsys.exit(2 if own else {STOPPED})"
    assert launch(script(text), 2) == 2


# Several machines

SRUN = f"""#!{sys.executable} -S
import json, os, sys
print(json.dumps([sys.argv[1:], os.environ["GDD_PORT"]]))
sys.exit(75)
"""


def test_the_step_has_a_task_on_each_machine_and_ends_as_they_do(tmp_path: Path) -> None:
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    variables = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "6",
    }
    code = "from gdd.training.processes import spread; spread(['gdd', 'distill'], 2, 4)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=PATH | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 75, done.stderr
    command, port = json.loads(done.stdout)
    assert command[-4:] == ["env", "--ignore-signal=USR2", "gdd", "distill"]
    assert {"--overlap", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--gpus-per-node=4"} <= {*command}
    assert {"--cpus-per-task=6", "--cpu-bind=none"} <= {*command}
    assert 1024 < int(port) < 65536


@pytest.mark.parametrize(("nodes", "has"), [("0", "this is no SLURM job"), ("1", "this SLURM job has 1")])
def test_too_few_machines_are_one_sentence(monkeypatch: pytest.MonkeyPatch, nodes: str, has: str) -> None:
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", nodes)
    with pytest.raises(UserError, match=f"spread over 2 machines, but {has}"):
        spread(["gdd"], 2, 0)


def test_a_task_knows_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_place() is None
    for name, value in {
        "GDD_PORT": "1234",
        "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_NODEID": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert own_place() == Nodes(2, 1, "10.0.0.1", 1234)
