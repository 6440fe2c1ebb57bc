"""A toy problem, small enough to train on: images, teachers, feature networks and solved pairs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edm_writer import TINY, TINY_ARGUMENTS, Foreign

from gdd.config.architecture import Architecture
from gdd.config.recipe import Recipe
from gdd.config.record import parse
from gdd.data.image_array import ImageArray, write
from gdd.diffusion.sampler import make_pairs
from gdd.distill.distill import Inputs
from gdd.networks.checkpoint import save_network
from gdd.networks.classifier import SmallClassifier, save_classifier
from gdd.networks.preconditioning import Denoiser
from gdd.randomness import seeded_weights
from gdd.training.processes import STOP_FILE_VARIABLE

CLASSES = 4
ARCH = Architecture(
    model_type="SongUNet",
    img_resolution=8,
    img_channels=1,
    model_channels=8,
    channel_mult=(1,),
    num_blocks=1,
    attn_resolutions=(),
)
RECIPE = {
    "dataset": "blobs",
    "teacher": "tiny",
    "teacher_sampler": {"steps": 2},
    "objective": {"distributional": "softplus"},
    "images": 32,
    "batch": 8,
    "snapshot_every": 16,
    "lr": {"generator": 1e-3, "discriminator": 2e-3},
    "ema": {"half_life": 40, "ramp": 0.5},
    "backbones": ["one"],
    "heads": {"kind": "local", "channels": 4, "projection_channels": 4, "norm_group": 4},
    "r1": {"gamma": 0.1, "every": 2},
}


@dataclass(frozen=True)
class Toy:
    """The files a run starts from; `conditional` ones belong to a class-conditional teacher."""

    data: ImageArray
    data_folder: Path
    teachers: dict[bool, Path]
    pairs: dict[bool, Path]
    backbones: dict[str, Path]

    def arch(self, conditional: bool = False, **changes: Any) -> Architecture:
        """Return the teachers' architecture."""
        return ARCH.model_copy(update={"label_dim": CLASSES if conditional else 0, **changes})

    def recipe(self, **changes: Any) -> Recipe:
        """Return a recipe of four steps with two groups each and R1 in the third of them."""
        return parse(Recipe, RECIPE | changes, "test")

    def inputs(self, conditional: bool = False) -> Inputs:
        """Return what `gdd distill` is given."""
        return Inputs(self.teachers[conditional], self.data_folder, self.backbones, self.pairs[conditional])


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(0)
    labels = np.arange(44) % CLASSES
    images = rng.integers(0, 90, (44, 8, 8, 1)) + 40 * labels[:, None, None, None]
    data = write(folder / "data", images.astype(np.uint8), labels, {"name": "blobs"})

    teachers, pairs = {}, {}
    for conditional in (False, True):
        arch = ARCH.model_copy(update={"label_dim": CLASSES if conditional else 0})
        with seeded_weights(1):
            teacher = Denoiser(arch)
            with torch.no_grad():  # fresh networks give almost nothing: their last layers start at zero
                for parameter in teacher.parameters():
                    parameter += 0.1 * torch.randn_like(parameter)
        teachers[conditional] = folder / f"teacher-{conditional}.safetensors"
        save_network(teachers[conditional], teacher)
        pairs[conditional] = folder / f"pairs-{conditional}.safetensors"
        make_pairs(pairs[conditional], teachers[conditional], steps=2, count=10)

    backbones = {}
    for seed, name in enumerate(("one", "two")):
        backbones[name] = folder / f"{name}.safetensors"
        with seeded_weights(seed):
            save_classifier(
                backbones[name], SmallClassifier("plain", 4, 1, CLASSES, 8).eval(), feature_scale=1.0
            )
    return Toy(data, folder / "data", teachers, pairs, backbones)


class Crash(Exception):
    """What a test throws into a run."""


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[type, int, str], None]:
    """Make the trainee of a class end in the middle, once: interrupt(class, after how many steps, how)."""

    def arrange(trainee: type, after: int, how: str) -> None:
        original = trainee.step  # type: ignore[attr-defined]
        stop_file = tmp_path / "stop"
        calls = 0

        def step(self: Any) -> dict[str, float]:
            nonlocal calls
            calls += 1
            if calls == after + 1 and how == "crash":
                raise Crash
            scalars: dict[str, float] = original(self)
            if calls == after and how == "file":
                stop_file.touch()
            elif calls == after and how != "crash":
                os.kill(os.getpid(), getattr(signal, how))
            elif calls > after:
                stop_file.unlink(missing_ok=True)
            return scalars

        monkeypatch.setenv(STOP_FILE_VARIABLE, str(stop_file))
        monkeypatch.setattr(trainee, "step", step)

    return arrange


@pytest.fixture
def published() -> Callable[[Path], dict[str, bytes]]:
    """Return the bytes of every weights and samples file a run left, by its path."""

    def read(folder: Path) -> dict[str, bytes]:
        files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".safetensors", ".npz")]
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in files if "state" not in path.parts
        }

    return read


@pytest.fixture
def logged() -> Callable[[Path], list[dict[str, Any]]]:
    """Return the lines of a run's log."""

    def read(folder: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]

    return read


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Foreign]:
    """Return a maker of pickles, with the names of 2022 (True) or of today (False)."""
    return lambda old=False: Foreign(monkeypatch, old)


@pytest.fixture
def tiny(foreign: Callable[[bool], Foreign], tmp_path: Path) -> Path:
    """A small network as a pickle, with everything that the large ones have."""
    torch.manual_seed(0)
    denoiser = Denoiser(Architecture(**TINY))
    maker = foreign(False)
    buffers = {name for name, _ in denoiser.named_buffers()}
    return maker.write(tmp_path / "tiny.pkl", maker.network(TINY_ARGUMENTS, denoiser.state_dict(), buffers))
