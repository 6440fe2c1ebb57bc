"""A run of several processes, on one node and on two: requeued, it ends with the bits of an uninterrupted one."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import wait_for
from slurm_cluster import SlurmCluster
from tiny_run import BATCH, has_begun, logged, make_inputs, results, stage_options
from toy_workflow import Toy, python_environment

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

STEPS = 100
GDD = [sys.executable, "-m", "gdd", "--threads", "1", "distill"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def options(inputs: Path) -> list[str]:
    images = {"images": STEPS * BATCH, "snapshot_every": STEPS * BATCH // 2}
    return [*stage_options("distill", inputs, **images), "--device", "cpu"]


@pytest.fixture(scope="module")
def whole(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    command = [*GDD, str(folder), *options, "--processes", "2"]
    subprocess.run(command, env=os.environ | python_environment(), check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(("nodes", "processes"), [pytest.param(1, 2, marks=pytest.mark.thorough), (2, 1)])
def test_requeued(
    nodes: int,
    processes: int,
    options: list[str],
    whole: Path,
    toy: Callable[..., Toy],
    cluster: SlurmCluster,
) -> None:
    layout = ["--nodes", str(nodes), "--processes", str(processes)]
    command = shlex.join([*GDD, "runs/a", *options, *layout]) + " && cp runs/a/run.json results/a.json"
    flow = toy(a={"command": command, "nodes": nodes, "gpu": 2, "mem_mb": 4000})
    folder = flow.folder / "runs" / "a"
    process = flow.start()
    for images in (10 * BATCH, 40 * BATCH):
        began = folder.joinpath("lock").stat().st_mtime if folder.exists() else 0

        def trained() -> bool:
            return has_begun(folder, began) and logged(folder / "state" / "log.jsonl")[-1:] >= [images]  # noqa: B023

        wait_for(f"{images} images", lambda: trained() or process.poll() is not None, 240, every=0.02)
        ((job, state),) = cluster.queue()
        assert state == "RUNNING", flow.said
        cluster.ask("scontrol", "requeue", job)
        wait_for("its end", lambda: ["PENDING"] in [line[1:] for line in cluster.queue()], 60)
    flow.finish(process)

    assert results(folder) == results(whole)
    counts = list(range(BATCH, STEPS * BATCH + 1, BATCH))
    assert logged(folder / "log.jsonl") == logged(whole / "log.jsonl") == counts
    assert len(json.loads((folder / "run.json").read_text())["sessions"]) == 3
    flow.check_nothing_is_left()
