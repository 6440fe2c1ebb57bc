"""`gdd evaluate-run` as the workflow calls it: in one process and in two, and killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gdd.config.evaluation import Evaluation
from gdd.metrics.extractors import open_extractor
from gdd.metrics.reference import build_reference
from gdd.networks.checkpoint import one_step_from_denoiser, save_network

pytestmark = pytest.mark.slow

EVALUATION = Evaluation(
    extractor="one", samples=600, blocks=2, metrics=("fid", "kid", "precision", "recall", "pixel_fid")
)
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "--", "gdd"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GDD_PROGRESS": "plain"}


@pytest.fixture(scope="module")
def references(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("references")
    data = np.concatenate([np.asarray(world.data.images)] * 2)
    data[44:] = 255 - data[44:]
    for name in ("one", "pixels"):
        extractor = open_extractor(name, world.backbones["one"], world.data.shape)
        path = folder / f"{name}.npz"
        build_reference(data, extractor, dataset="blobs", dataset_sha256=world.data.sha256, path=path)
    return folder


def command(world: Any, references: Path, folder: Path) -> list[str]:
    """Write a run's snapshots to `folder` and return how to judge them."""
    for scale in (1, 3, 2):
        generator = one_step_from_denoiser(world.teachers[False])
        with torch.no_grad():
            generator.model.dec["8x8_aux_conv"].weight *= scale
        count = len(list(folder.glob("snapshots/*"))) + 1
        save_network(folder / "snapshots" / f"{16 * count:09d}.safetensors", generator)
    (folder / "run.json").write_text('{"recipe": {}}')
    return [
        *("evaluate-run", str(folder), "--evaluation", EVALUATION.canonical()),
        *("--data", str(world.data_folder), "--references", str(references)),
        *("--extractor", f"one={world.backbones['one']}", "--device", "cpu"),
    ]


def numbers(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return {key: metrics[key] for key in ("curve", "final", "best")}


def run(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_two_processes_and_a_killed_one_give_the_numbers_of_one(
    world: Any, references: Path, tmp_path: Path
) -> None:
    run("-m", "gdd", *command(world, references, tmp_path / "one"))
    one = numbers(tmp_path / "one")

    run(*TORCHRUN, *command(world, references, tmp_path / "two"))
    two = numbers(tmp_path / "two")
    assert [point["images"] for point in two["curve"]] == [16, 32, 48]
    assert two["best"]["images"] == one["best"]["images"]
    for part in ("final", "best"):
        for own, other in zip(one[part]["blocks"], two[part]["blocks"], strict=True):
            assert other == pytest.approx(own, rel=1e-9)

    folder = tmp_path / "killed"
    arguments = [sys.executable, "-m", "gdd", *command(world, references, folder)]
    blocks = folder / "state" / "evaluation"
    process = subprocess.Popen(arguments, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 240
    while (
        not list(blocks.glob("000000048.block*.json")) and process.poll() is None and time.monotonic() < limit
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in blocks.glob("000000048.block*.json")}
    assert done
    assert not (folder / "metrics.json").exists()
    run(*arguments[1:])
    assert numbers(folder) == one
    assert all(path.stat().st_mtime_ns == written for path, written in done.items())
