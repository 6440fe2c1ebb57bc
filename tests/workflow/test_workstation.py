"""The rules on a machine with GPUs, made-up ones: a run has as many processes as it was given of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.workflow, pytest.mark.slow]


@pytest.fixture
def workstation(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two GPUs that nothing is computed on, and a setting that asks for four."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("GDD_DEVICE", "cpu")
    monkeypatch.setenv("GDD_GPU_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    made.edit("settings/digits.yaml", lambda data: data.update(resources={"gpus": 4}))
    return made


def sessions(project: Any, run: str, seed: int) -> list[int]:
    """Return the number of processes at each start of a run."""
    facts = json.loads((project.folder / f"results/runs/digits/{run}/seed{seed}/run.json").read_text())
    return [start["processes"] for start in facts["sessions"]]


def test_snakemake_counts_the_gpus_and_jobs_claim_them(workstation: Any) -> None:
    run = "results/runs/digits/{}/seed{}/run.json"
    limited = [run.format("gdd", 5)]
    workstation.snakemake("--cores", "2", "--resources", "gpu=1", "--", *limited)
    # The run asks for four, and Snakemake gives no job more than it has itself.
    assert sessions(workstation, "gdd", 5) == [1]
    # With whatever number of GPUs it was made, it is made.
    (workstation.folder / "config" / "local.yaml").write_text("gpus: 2\n")
    assert workstation.planned("--", *limited) == set()
    (workstation.folder / "config" / "local.yaml").unlink()

    # Without a limit two jobs at once ask for all GPUs, and one waits for the other.
    at_once = ["--cores", "2", "--set-threads", "distill=1", "--"]
    workstation.snakemake(*at_once, *(run.format(method, 6) for method in ("gdd", "gdd-i")))
    waited = 0
    for method in ("gdd", "gdd-i"):
        assert sessions(workstation, method, 6) == [2]
        log = (workstation.folder / f"results/logs/runs/digits/{method}/seed6.log").read_text()
        assert "4 GPU(s) asked for, 2 here." in log
        assert "Computing on GPU 0, 1." in log
        waited += "Waiting for 2 of the GPUs 0, 1" in log
    assert waited == 1
