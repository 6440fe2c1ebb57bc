"""A run of several processes, on one node and on two: requeued, it ends with the bits of an uninterrupted one."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import wait_for
from slurm_cluster import SlurmCluster
from tiny_project import BATCH, OFTEN, RUN, copy_project, has_begun, logged, make_project, results
from toy_workflow import Toy, python_environment

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

STEPS = 100
IMAGES = STEPS * BATCH
GDD = [sys.executable, "-m", "gdd", "--threads", "1"]
DISTILL = ["distill", "tiny", "gdd", "--seed", "3", *OFTEN, "--device", "cpu"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project") / "p"
    return make_project(folder, images=IMAGES, snapshot_every=IMAGES // 2)


@pytest.fixture(scope="module")
def whole(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody disturbed."""
    folder = copy_project(project, tmp_path_factory.mktemp("whole") / "p")
    command, environment = [*GDD, *DISTILL, "--processes", "2"], os.environ | python_environment()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder / RUN


@pytest.mark.parametrize(("nodes", "processes"), [pytest.param(1, 2, marks=pytest.mark.thorough), (2, 1)])
def test_requeued(
    nodes: int,
    processes: int,
    project: Path,
    whole: Path,
    toy: Callable[..., Toy],
    cluster: SlurmCluster,
) -> None:
    layout = ["--nodes", str(nodes), "--processes", str(processes)]
    command = shlex.join([*GDD, *DISTILL, *layout]) + f" && cp {RUN}/run.json results/a.json"
    flow = toy(a={"command": command, "nodes": nodes, "gpu": 2, "mem_mb": 4000})
    shutil.copytree(project, flow.folder, dirs_exist_ok=True)
    folder = flow.folder / RUN
    process = flow.start()
    for images in (10 * BATCH, 40 * BATCH):
        began = time.time() if folder.exists() else 0

        def trained() -> bool:
            return has_begun(folder, began) and logged(folder / "state" / "log.jsonl")[-1:] >= [images]  # noqa: B023

        wait_for(f"{images} images", lambda: trained() or process.poll() is not None, 240, every=0.02)
        ((job, state),) = cluster.queue()
        assert state == "RUNNING", flow.said
        cluster.ask("scontrol", "requeue", job)
        wait_for("its end", lambda: ["PENDING"] in [line[1:] for line in cluster.queue()], 60)
    flow.finish(process)

    assert results(folder) == results(whole)
    counts = list(range(BATCH, IMAGES + 1, BATCH))
    assert logged(folder / "log.jsonl") == logged(whole / "log.jsonl") == counts
    assert len(json.loads((folder / "run.json").read_text())["sessions"]) == 3
    flow.check_nothing_is_left()
