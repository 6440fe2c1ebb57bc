"""Training so small that it takes seconds, by the commands that train in earnest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from gdd.config.architecture import Architecture
from gdd.config.recipe import Ema, TeacherRecipe
from gdd.config.records import Dataset, FeatureNetwork
from gdd.data.image_array import ImageArray
from gdd.data.prepare import prepare
from gdd.diffusion.teacher import train_teacher
from gdd.training.feature_network import make_feature_network

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


def make_inputs(folder: Path) -> Path:
    """Make a data set, a teacher and a feature network in `folder` and return it."""
    torch.set_num_threads(1)
    record = Dataset(title="Digits", source="digits", resolution=8, channels=1, images=1797, classes=10)
    data = prepare(folder / "digits", "digits", record)
    network = FeatureNetwork(title="Random", dataset="digits", architecture="plain", width=8, steps=0, seed=0)
    make_feature_network(folder / "random.safetensors", network, ImageArray.open(folder / "digits"))
    recipe = TeacherRecipe(images=320, batch=32, lr=2e-3, ema=Ema(half_life=100))
    train_teacher(folder / "teacher", recipe, Architecture.model_validate_json(json.dumps(ARCH)), data)
    return folder


def stage_options(stage: str, inputs: Path, **changes: Any) -> list[str]:
    """Return a stage's options, with a checkpoint after every second step; `changes` are to the recipe."""
    options = ["--data", str(inputs / "digits"), "--checkpoint-every", str(2 * BATCH)]
    if stage == "teacher":
        options += ["--record", json.dumps(TEACHER)]
    else:
        options += ["--recipe", json.dumps(RECIPE | changes), "--seed", "3"]
        options += ["--teacher", str(inputs / "teacher" / "model.safetensors")]
        options += ["--backbone", str(inputs / "random.safetensors")]
    return options


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


def results(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".safetensors", ".npz")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if "state" not in path.parts}
