"""Snakemake with the plugin from end to end, on processes of this machine instead of SLURM's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.workflow

ROOT = Path(__file__).resolve().parents[2]
SNAKEFILE = """
rule all:
    input: "three", "pair"

rule three:
    output: "three"
    resources: progress="starts"
    shell: "echo start >> starts; [ $(wc -l < starts) = 3 ] || exit 75; touch {output}"

rule first:
    output: "first"
    group: "pair"
    shell: "touch {output}"

rule second:
    input: "first"
    output: "pair"
    group: "pair"
    shell: "touch {output}"

rule broken:
    output: "broken"
    log: "broken.log"
    shell: "echo it broke > {log}; exit 3"

rule long:
    output: "long"
    shell: "touch begun; exec sleep 300"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    return tmp_path


def start(folder: Path, cluster: str, *targets: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow" / "executor")}
    command = [sys.executable, "-m", "snakemake", "--executor", "submitit", "--submitit-cluster", cluster]
    command += ["--jobs", "3", "--keep-going", "--latency-wait", "10", "--scheduler", "greedy", *targets]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )


def test_jobs_groups_and_restarts(folder: Path) -> None:
    process = start(folder, "local", "all", "broken")
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert (folder / "three").exists()
    assert (folder / "starts").read_text().count("start") == 3
    assert (folder / "pair").exists()
    assert "its command ended with status 3" in told
    assert "broken.log" in told
    assert not list((folder / ".snakemake" / "submitit" / "three").iterdir())  # of a job that succeeded
    assert list((folder / ".snakemake" / "submitit" / "broken").glob("*_log.out"))


def test_ctrl_c_leaves_no_process(folder: Path) -> None:
    process = start(folder, "local", "long")
    until = time.monotonic() + 120
    while not (folder / "begun").exists():
        assert time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    here = str(folder)
    left = [one.info for one in psutil.process_iter(["cmdline", "cwd"]) if one.info["cwd"] == here]
    assert not left


def test_debugging_runs_in_snakemakes_own_process(folder: Path) -> None:
    process = start(folder, "debug", "pair", "broken")
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert (folder / "pair").exists()
    assert "debug job" in told
