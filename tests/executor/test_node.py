"""What a job does on its node, under the variables of a job of SLURM and with a scontrol that only takes notes."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from submitit.core.utils import DelayedSubmission

from snakemake_executor_plugin_submitit.jobs import paths
from snakemake_executor_plugin_submitit.node import Command
from snakemake_executor_plugin_submitit.progress import descendants, handles
from snakemake_executor_plugin_submitit.verdict import Ended, read_result

pytestmark = pytest.mark.slow

TRAINER = """
import os, signal, sys, time
asked = []
signal.signal(signal.SIGUSR2, lambda *_: asked.append(1))
open("ready", "w").close()
for _ in range(6000):
    time.sleep(0.01)
    if asked and os.path.exists(os.environ["MY_STOP_FILE"]):
        open("saved", "w").close()
        sys.exit(75)
"""
# What Snakemake says about a rule that ended so, before it ends with 1 itself.
SAYS = "python trainer.py || { echo \"Command '...' returned non-zero exit status $?.\"; exit 1; }"


class Node:
    """A node with one job, number 7."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment

    def start(self, shell: str, **options: Any) -> subprocess.Popen[bytes]:
        (self.folder / "ready").unlink(missing_ok=True)
        command = Command(shell, "train", stop_variables=("MY_STOP_FILE",), **options)
        DelayedSubmission(command).dump(self.folder / "7_submitted.pkl")
        with (self.folder / "7_0_log.out").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "snakemake_executor_plugin_submitit.node", str(self.folder)],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    def run(self, shell: str, **options: Any) -> int:
        return self.start(shell, **options).wait(60)

    def wait_for(self, name: str) -> None:
        until = time.monotonic() + 60
        while not (self.folder / name).exists():
            assert time.monotonic() < until, self.log
            time.sleep(0.05)

    @property
    def result(self) -> Ended | None:
        return read_result(paths(self.folder, "7"))

    @property
    def log(self) -> str:
        return (self.folder / "7_0_log.out").read_text()

    @property
    def requeued(self) -> int:
        asked = self.folder / "scontrol.asked"
        return asked.read_text().count("requeue 7") if asked.exists() else 0


@pytest.fixture
def node(tmp_path: Path) -> Node:
    (tmp_path / "trainer.py").write_text(TRAINER)
    for name, answer in (
        ("scontrol", f'echo "$@" >> {tmp_path}/scontrol.asked'),
        ("squeue", "echo COMPLETING"),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{answer}\n")
        (tmp_path / name).chmod(0o755)
    root = Path(__file__).resolve().parents[2]
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(
            [str(root / "workflow" / "executor"), os.environ.get("PYTHONPATH", "")]
        ),
        "SUBMITIT_EXECUTOR": "slurm",
        "SLURM_JOB_ID": "7",
    }
    return Node(tmp_path, environment)


def test_success(node: Node) -> None:
    assert node.run("echo hello") == 0
    assert node.result is not None
    assert node.result.success
    assert node.result.used["seconds"] > 0
    assert node.result.used["mem_mb"] > 1
    assert "hello" in node.log


def test_what_had_succeeded_when_its_node_was_lost_is_not_done_again(node: Node) -> None:
    """Its outputs may be in use by now."""
    assert node.run("echo once >> done") == 0
    (node.folder / "7_submitted.pkl").unlink(missing_ok=True)
    command = [sys.executable, "-m", "snakemake_executor_plugin_submitit.node", str(node.folder)]
    assert subprocess.run(command, cwd=node.folder, env=node.environment, check=False).returncode == 0
    assert (node.folder / "done").read_text() == "once\n"


def test_failure_has_the_rules_own_status(node: Node) -> None:
    assert node.run("echo \"Command 'x' returned non-zero exit status 3.\"; exit 1") != 0
    assert node.result == Ended(False, "its command ended with status 3")
    assert "Traceback" not in node.log
    assert not node.requeued


def test_near_the_limit_the_trainer_saves_and_the_job_is_started_again(node: Node) -> None:
    process = node.start(SAYS)
    node.wait_for("ready")
    process.send_signal(signal.SIGUSR2)  # as SLURM does, to this process alone
    assert process.wait(60) != 0
    assert (node.folder / "saved").exists()
    assert node.requeued == 1
    assert node.result is None  # it has not ended


def test_status_75_asks_for_another_start(node: Node) -> None:
    assert node.run("echo \"Command 'x' returned non-zero exit status 75.\"; exit 1") != 0
    assert node.requeued == 1
    assert node.result is None


def test_status_75_of_an_earlier_start_does_not_count(node: Node) -> None:
    node.run("echo \"Command 'x' returned non-zero exit status 75.\"; exit 1")
    node.run("exit 1")
    assert node.requeued == 1
    assert node.result == Ended(False, "its command ended with status 1")


def test_a_result_of_an_earlier_start_is_removed(node: Node) -> None:
    (node.folder / "7_0_result.pkl").write_bytes(pickle.dumps(("error", "old")))
    node.run("echo \"Command 'x' returned non-zero exit status 75.\"; exit 1")
    assert node.result is None


def test_who_does_not_stop_is_ended_before_the_limit(node: Node) -> None:
    process = node.start("touch ready; sleep 300", stop_seconds=1)
    node.wait_for("ready")
    process.send_signal(signal.SIGUSR2)
    assert process.wait(60) != 0
    assert node.result is not None
    assert "did not stop when asked to" in node.result.reason
    assert "--set-resources train:runtime=" in node.result.reason


def test_who_does_not_stop_but_got_further_goes_on(node: Node) -> None:
    process = node.start("echo 1 > state; touch ready; sleep 300", stop_seconds=1, progress="state")
    node.wait_for("ready")
    process.send_signal(signal.SIGUSR2)
    process.wait(60)
    assert node.requeued == 1
    assert node.result is None


def test_without_progress_the_job_is_given_up(node: Node) -> None:
    shell = "echo \"Command 'x' returned non-zero exit status 75.\"; exit 1"
    for _ in range(3):
        assert node.result is None
        node.run(shell, stalled_restarts=2, progress="state")
    assert node.requeued == 2
    assert node.result is not None
    assert "started 3 times, the last 2 without any progress: nothing new in state" in node.result.reason


def test_when_slurm_ends_the_job_it_says_nothing(node: Node) -> None:
    """Whether it starts again is SLURM's to say: no result, no request, and no process left."""
    process = node.start(SAYS)
    node.wait_for("ready")
    below = [one.pid for one in descendants(process.pid)]
    for pid in (process.pid, *below):
        os.kill(pid, signal.SIGTERM)
    assert process.wait(60) != 0
    assert node.result is None
    assert not node.requeued


def test_a_node_that_shuts_down_does_not_fail_the_job(node: Node) -> None:
    """SIGTERM, but SLURM takes the job for running: so the job asks to be started again."""
    (node.folder / "squeue").write_text("#!/bin/bash\necho RUNNING\n")
    process = node.start("touch ready; exec sleep 300")
    node.wait_for("ready")
    for pid in (process.pid, *(one.pid for one in descendants(process.pid))):
        os.kill(pid, signal.SIGTERM)
    process.wait(60)
    assert node.requeued == 1
    assert node.result is None


def test_requeueing_waits_for_a_controller_that_is_away(node: Node) -> None:
    tool = node.folder / "scontrol"
    tool.write_text(
        f"#!/bin/bash\n[ -e {node.folder}/away ] && {{ rm {node.folder}/away; exit 1; }}\n"
        f'echo "$@" >> {node.folder}/scontrol.asked\n'
    )
    (node.folder / "away").touch()
    node.run("echo \"Command 'x' returned non-zero exit status 75.\"; exit 1")
    assert node.requeued == 1


def test_processes_that_handle_a_signal_are_told_from_those_that_die_of_it(
    node: Node, tmp_path: Path
) -> None:
    ready = "open('ready', 'w').close(); time.sleep(60)"
    handler = f"import signal, time; signal.signal(signal.SIGUSR2, lambda *_: None); {ready}"
    for code, expected in ((handler, True), (f"import time; {ready}", False)):
        (tmp_path / "ready").unlink(missing_ok=True)
        child = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
        try:
            node.wait_for("ready")
            assert handles(child.pid, signal.SIGUSR2) is expected
            assert child.pid in [one.pid for one in descendants()]
        finally:
            child.kill()
            child.wait()
