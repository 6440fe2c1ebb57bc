"""Training that is killed at any moment, even while it writes a checkpoint, ends with the same bits."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from gdd.config.architecture import Architecture
from gdd.config.recipe import Ema, TeacherRecipe
from gdd.config.records import Dataset, FeatureNetwork
from gdd.data.image_array import ImageArray
from gdd.data.prepare import prepare
from gdd.diffusion.teacher import train_teacher
from gdd.training.feature_network import make_feature_network

pytestmark = pytest.mark.slow

KILLS, IN_A_WRITE = int(os.environ.get("GDD_KILLS", "10")), 3  # GDD_KILLS=34 makes 51 of distillation
BATCH, STEPS = 16, 80
ARCH = {
    "model_type": "SongUNet",
    "img_resolution": 8,
    "img_channels": 1,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "dropout": 0.1,
}
TEACHER = {
    "title": "Tiny",
    "dataset": "digits",
    "architecture": ARCH,
    "training": {"images": STEPS * BATCH, "batch": BATCH, "lr": 1e-3, "ema": {"half_life": 500, "ramp": 0.5}},
}
RECIPE = {
    "dataset": "digits",
    "teacher": "tiny",
    "teacher_sampler": {"steps": 2},
    "objective": {"distributional": "softplus"},
    "images": STEPS * BATCH,
    "batch": BATCH,
    "snapshot_every": STEPS * BATCH // 4,
    "lr": {"generator": 1e-3, "discriminator": 1e-3},
    "ema": {"half_life": 500, "ramp": 0.5},
    "backbones": ["random"],
    "heads": {"kind": "local", "channels": 8, "projection_channels": 8, "norm_group": BATCH // 2},
    "r1": {"gamma": 1e-2, "every": 4},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a teacher and a feature network."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("inputs")
    record = Dataset(title="Digits", source="digits", resolution=8, channels=1, images=1797, classes=10)
    data = prepare(folder / "digits", "digits", record)
    network = FeatureNetwork(title="Random", dataset="digits", architecture="plain", width=8, steps=0, seed=0)
    make_feature_network(folder / "random.safetensors", network, ImageArray.open(folder / "digits"))
    recipe = TeacherRecipe(images=320, batch=32, lr=2e-3, ema=Ema(half_life=100))
    train_teacher(folder / "teacher", recipe, Architecture.model_validate_json(json.dumps(ARCH)), data)
    return folder


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def command(stage: str, folder: Path, inputs: Path) -> list[str]:
    """Return the command line of a stage, with a checkpoint after every second step."""
    stage, _, together = stage.partition(" ")
    options = ["--data", str(inputs / "digits"), "--checkpoint-every", str(2 * BATCH)]
    if stage == "teacher":
        options += ["--record", json.dumps(TEACHER)]
    else:
        options += ["--recipe", json.dumps(RECIPE), "--seed", "3"]
        options += ["--teacher", str(inputs / "teacher" / "model.safetensors")]
        options += ["--backbone", str(inputs / "random.safetensors")]
    launcher = TORCHRUN if together else []
    return [sys.executable, *launcher, "-m", "gdd", "--threads", "1", stage, str(folder), *options]


def start(stage: str, folder: Path, inputs: Path) -> subprocess.Popen[bytes]:
    with (folder.parent / f"{folder.name}.err").open("ab") as errors:
        return subprocess.Popen(command(stage, folder, inputs), stderr=errors)


def finish(stage: str, folder: Path, inputs: Path) -> None:
    done = subprocess.run(command(stage, folder, inputs), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def has_begun(folder: Path, since: float) -> bool:
    """Whether a step has been trained since then."""
    try:
        facts = json.loads((folder / "state" / "progress.json").read_text())
    except FileNotFoundError:
        return False
    return bool(facts["updated"] > since)


def logged(path: Path) -> list[int]:
    """Return the image counts of a log, which may end within a line."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["images"] for line in lines if line.endswith("}")]


def half_written(folder: Path) -> list[str]:
    checkpoints = folder / "state" / "checkpoints"
    return [name for name in os.listdir(checkpoints) if name.startswith(".")] if checkpoints.exists() else []


def kill(
    stage: str, folder: Path, inputs: Path, target: int, in_a_write: bool, delay: float
) -> dict[str, Any]:
    """Start the stage and kill it once it has seen `target` images: in its next write, or after a delay."""
    began = time.time()
    process = start(stage, folder, inputs)
    log = folder / "state" / "log.jsonl"
    try:
        while not (has_begun(folder, began) and logged(log)[-1:] >= [target]):
            assert process.poll() is None, (folder.parent / f"{folder.name}.err").read_text()
            time.sleep(0.005)
        if in_a_write:
            while not half_written(folder) and process.poll() is None:
                pass
        else:
            time.sleep(delay)
        assert process.poll() is None, "it ended before it could be killed"
    finally:
        # All processes of a run at once; torchrun's would otherwise see it end and could write once more.
        doomed = [*psutil.Process(process.pid).children(recursive=True), process]
        for one in doomed:
            one.kill()
        for one in doomed:
            one.wait()
    return {"images": logged(log)[-1], "while writing": bool(half_written(folder))}


def results(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".safetensors", ".npz")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if "state" not in path.parts}


@pytest.mark.parametrize(
    ("stage", "count"), [("teacher", KILLS), ("distill", KILLS), ("distill in two processes", KILLS // 2)]
)
def test_kills_change_no_bit(
    stage: str, count: int, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(stage, whole, inputs)

    rng = random.Random(f"{stage} 1")
    # Strictly rising, so that every process has to get further than the one before.
    targets = sorted(rng.sample(range(BATCH, (STEPS - 6) * BATCH, BATCH), count))
    planned = rng.sample([True, False] * KILLS, count)
    kills: list[dict[str, Any]] = []
    for number, target in enumerate(targets):
        missing = IN_A_WRITE - sum(done["while writing"] for done in kills)
        in_a_write = planned[number] or missing >= count - number
        kills.append(kill(stage, killed, inputs, target, in_a_write, rng.uniform(0, 0.2)))
        assert not (killed / "log.jsonl").exists()  # nothing is published before the end
    with capsys.disabled():
        told = ", ".join(f"{done['images']}{' (writing)' * done['while writing']}" for done in kills)
        print(f"\n{stage}: killed at {told} of {STEPS * BATCH} images")
    assert sum(done["while writing"] for done in kills) >= IN_A_WRITE

    finish(stage, killed, inputs)
    assert len(results(whole)) == (1 if stage == "teacher" else 8)
    assert results(killed) == results(whole)
    assert logged(killed / "log.jsonl") == logged(whole / "log.jsonl") == list(range(BATCH, 1281, BATCH))
    assert not [path for path in killed.rglob("*") if path.name.startswith(".")]
    if stage != "teacher":
        assert len(json.loads((killed / "run.json").read_text())["sessions"]) == count + 1
