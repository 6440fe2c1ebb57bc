"""Spreading a run over machines, with an srun and a scontrol that only say what they were asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gdd.errors import UserError
from gdd.training.launch import Nodes
from gdd.training.spread import own_place, spread

ROOT = Path(__file__).resolve().parents[3]
SCONTROL = """#!/bin/sh
case "$2 $3" in
  "hostnames n[1-2]") printf 'n1\\nn2\\n';;
  "node n1") echo 'NodeName=n1 NodeAddr=10.0.0.1 NodeHostName=n1';;
  *) exit 1;;
esac
"""
SRUN = f"""#!{sys.executable}
import json, os, sys
print(json.dumps([sys.argv[1:], os.environ["GDD_MEETING"]]))
sys.exit(75)
"""


@pytest.mark.slow
def test_the_step_has_a_task_on_each_machine_and_ends_as_they_do(tmp_path: Path) -> None:
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    variables = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_CPUS_PER_TASK": "6",
    }
    code = "from gdd.training.spread import spread; spread(['gdd', 'distill'], 2, 4)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 75, done.stderr
    command, meeting = json.loads(done.stdout)
    assert command[-4:] == ["env", "--ignore-signal=USR2", "gdd", "distill"]
    assert {"--overlap", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--gpus-per-node=4"} <= {*command}
    assert {"--cpus-per-task=6", "--cpu-bind=none"} <= {*command}
    host, port = meeting.split()
    assert host == "10.0.0.1"
    assert 1024 < int(port) < 65536


@pytest.mark.parametrize(("there", "has"), [(None, "this is no SLURM job"), ("1", "this SLURM job has 1")])
def test_too_few_machines_are_refused(monkeypatch: pytest.MonkeyPatch, there: str | None, has: str) -> None:
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    if there:
        monkeypatch.setenv("SLURM_JOB_NUM_NODES", there)
    with pytest.raises(UserError, match=f"spread over 2 machines, but {has}"):
        spread(["gdd"], 2, 0)


@pytest.mark.parametrize("there", [True, False])
def test_a_scontrol_that_fails_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: bool
) -> None:
    if there:
        (tmp_path / "scontrol").write_text(
            "#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n"
        )
        (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    reason = "Unable to contact slurm controller" if there else "No such file or directory: 'scontrol'"
    with pytest.raises(
        UserError, match=rf"^`scontrol show hostnames n\[1-2\]`, .* failed \(.*{reason}\); start"
    ):
        spread(["gdd"], 2, 0)


def test_a_task_knows_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GDD_MEETING", raising=False)
    assert own_place() is None
    monkeypatch.setenv("GDD_MEETING", "10.0.0.1 1234")
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    monkeypatch.setenv("SLURM_NODEID", "1")
    assert own_place() == Nodes(2, 1, "10.0.0.1", 1234)
