"""A project so small that it trains in seconds, by the commands that train in earnest."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from gdd.cli import cli

BATCH, STEPS = 16, 48
IMAGES = STEPS * BATCH
RECORDS: dict[str, Any] = {
    "config": {"seeds": [3], "targets": {"all": {"title": "T", "page": "index", "tables": ["small"]}}},
    "datasets/digits": {
        "title": "Digits", "source": "digits", "resolution": 8, "channels": 1, "images": 1797, "classes": 10,
    },
    "features/random": {
        "title": "Random", "dataset": "digits", "architecture": "plain", "width": 8, "steps": 0, "seed": 0,
    },
    "teachers/tiny": {
        "title": "Tiny",
        "dataset": "digits",
        "architecture": {
            "model_type": "SongUNet", "img_resolution": 8, "img_channels": 1, "model_channels": 16,
            "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4], "dropout": 0.1,
        },
        "training": {"images": 320, "batch": 32, "lr": 2e-3, "ema": {"half_life": 100}},
    },
    "teachers/longer": {},  # the tiny one, in the students' steps; see below
    "settings/tiny": {
        "title": "Tiny",
        "dataset": "digits",
        "teacher": "tiny",
        "teacher_sampler": {"steps": 2},
        "recipe": {
            "images": IMAGES, "batch": BATCH, "snapshot_every": IMAGES // 4,
            "lr": {"generator": 1e-3, "discriminator": 1e-3},
            "ema": {"half_life": 500, "ramp": 0.5},
            "backbones": ["random"],
            "heads": {"kind": "local", "channels": 8, "projection_channels": 8, "norm_group": BATCH // 2},
            "r1": {"gamma": 1e-2, "every": 4},
        },
        "evaluation": {"extractor": "random", "samples": 60},
    },
    "methods/gdd": {"title": "GDD", "colour": "#000000", "objective": {"distributional": "softplus"}},
    "ablations/small": {
        "title": "Small", "setting": "tiny", "rows": {"GDD": {"method": "gdd"}}, "columns": ["fid", "seconds"],
    },
}  # fmt: skip
RECORDS["teachers/longer"] = RECORDS["teachers/tiny"] | {
    "training": {"images": IMAGES, "batch": BATCH, "lr": 1e-3, "ema": {"half_life": 500, "ramp": 0.5}}
}
RUN = Path("results/runs/tiny/gdd/seed3")
# By what a test calls it: the words of the command, and the folder it trains in.
TRAININGS = {
    "teacher": (["teacher", "longer"], Path("results/teachers/longer")),
    "distill": (["distill", "tiny", "gdd", "--seed", "3"], RUN),
}
OFTEN = ["--checkpoint-every", str(2 * BATCH)]


def write_config(folder: Path, **recipe: Any) -> None:
    """Write the configuration, with changes to the recipe."""
    for name, record in RECORDS.items():
        path = folder / "config" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == "settings/tiny":
            record = record | {"recipe": record["recipe"] | recipe}
        path.write_text(yaml.safe_dump(record, sort_keys=False))


def make_project(folder: Path, **recipe: Any) -> Path:
    """Make the data set, the feature network and the teacher in `folder` and return it."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, **recipe)
    with contextlib.chdir(folder):
        for words in (["dataset", "digits"], ["features", "random"], ["teacher", "tiny"]):
            cli(words, standalone_mode=False)
    return folder


def copy_project(project: Path, folder: Path) -> Path:
    """Return a copy in which nothing has been trained but the tiny teacher."""
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("runs", "longer"))
    return folder


def command(training: str, *options: str) -> list[str]:
    """Return the command line of a training; it runs in the project's folder."""
    return [sys.executable, "-m", "gdd", "--threads", "1", *TRAININGS[training][0], *OFTEN, *options]


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


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it started, at once: none sees another one end and writes once more."""
    for one in signal_all(process, signal.SIGKILL):
        one.wait()


def signal_all(process: subprocess.Popen[bytes], number: int) -> list[Any]:
    """Send a signal to a process and all that it started, and return them."""
    every = [*psutil.Process(process.pid).children(recursive=True), process]
    for one in every:
        one.send_signal(number)
    return every


def half_written(folder: Path) -> list[str]:
    checkpoints = folder / "state" / "checkpoints"
    return [name for name in os.listdir(checkpoints) if name.startswith(".")] if checkpoints.exists() else []


def results(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".safetensors", ".npz")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if "state" not in path.parts}
