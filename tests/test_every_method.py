"""Every method and freeze policy with CIFAR-10's real network, in one process and in two.

The weights are random and the images few, because only what is trained and what stays frozen is looked at.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import in_processes

from gdd.config.load import load_config
from gdd.config.recipe import Recipe
from gdd.data.image_array import ImageArray, write
from gdd.distill.distill import Inputs, prepare
from gdd.experiments import Experiments
from gdd.networks.checkpoint import save_network
from gdd.networks.classifier import SmallClassifier, save_classifier
from gdd.networks.preconditioning import Denoiser
from gdd.networks.seeded import seeded_weights
from gdd.training.world import join

pytestmark = pytest.mark.slow

SETTING = "cifar10-uncond"
STEPS, BATCH = 2, 4
# What differs from the setting's recipe: its length and its batch, one step of the teacher's solver, and
# feature networks that need no download.
SMALL: dict[str, Any] = {
    "images": STEPS * BATCH,
    "batch": BATCH,
    "snapshot_every": STEPS * BATCH,
    "teacher_sampler": {"steps": 2},
    "backbones": ["digits-random"],
    "heads": {"kind": "local", "channels": 8, "projection_channels": 8, "norm_group": 2},
    "r1": {"gamma": 1e-4, "every": 1},
    "precision": "float32",
    "ema": {"half_life": 8, "ramp": 1.0},
}
POLICIES: dict[str, Any] = {
    "none": {},
    "conv": {"freeze": "conv"},
    "conv+qkv": {"freeze": "conv+qkv"},
    "conv+qkv+skip": {"freeze": "conv+qkv+skip"},
    "norms-only": {"freeze": "norms-only"},
    "patterns": {"freeze": ["model.enc.*", "!*norm*"]},
    "random-init": {"init": "random"},
}
# Of the published network, by the rule of the papers' code (a test of the policies computes them anew).
FROZEN = {"none": 0, "conv": 47_597_568, "conv+qkv": 48_781_824, "conv+qkv+skip": 51_015_168}


@pytest.fixture(scope="module")
def experiments() -> Experiments:
    return Experiments(load_config("config"))


@pytest.fixture(scope="module")
def inputs(experiments: Experiments, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cifar10")
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    write(folder / "data", images, np.arange(16) % 10, {"name": "c"})
    with seeded_weights(0):
        teacher = Denoiser(experiments.config.teachers["edm-cifar10-32x32-uncond-ve"].architecture)
        with torch.no_grad():  # fresh networks give almost nothing: their last layers start at zero
            for parameter in teacher.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
    save_network(folder / "teacher.safetensors", teacher)
    with seeded_weights(1):
        network = SmallClassifier("plain", 8, 3, 10, 32).eval()
    save_classifier(folder / "small.safetensors", network, feature_scale=1.0)
    backbones = {"digits-random": folder / "small.safetensors"}
    return Inputs(folder / "teacher.safetensors", folder / "data", backbones)


def recipe_of(experiments: Experiments, method: str, policy: str) -> Recipe:
    """Return the setting's recipe for a method, made small."""
    recipe = experiments.find(SETTING, method)
    changes = recipe.model_dump() | SMALL | POLICIES[policy]
    changes["objective"] |= {"pairs": 0}
    return Recipe.model_validate(changes, strict=False)


def train(recipe: Recipe, inputs: Inputs, out: Path) -> None:
    """Train for some steps, in as many processes as the environment says, and write down what happened."""
    torch.set_num_threads(1)
    with join("cpu", training=True) as world:
        student, frozen = prepare(recipe, 0, inputs, ImageArray.open(inputs.data), out.parent, world=world)
        before = {name: tensor.clone() for name, tensor in student.generator.named_parameters()}
        logged = [student.step() for _ in range(STEPS)]
        after = dict(student.generator.named_parameters())
        if world.main:
            same = [name for name, tensor in before.items() if torch.equal(tensor, after[name])]
            facts = {
                "logged": logged,
                "frozen": frozen,
                "same": same,
                "names": len(before),
                "processes": world.size,
                "count": sum(before[name].numel() for name in frozen),
            }
            out.write_text(json.dumps(facts))


# Half a minute each: the first stand for all, which GDD_ALL=1 runs, in one process and in two.
SOME = [("gdd", "conv", 2), ("pd", "patterns", 1)]
METHODS = [(method, "none") for method in ("gdd-direct", "direct", "pd", "cd", "ctm", "rcd")]
ALL = [(*run, processes) for processes in (1, 2) for run in [*(("gdd", name) for name in POLICIES), *METHODS]]
CASES = ALL if os.environ.get("GDD_ALL") else SOME


@pytest.mark.parametrize(
    ("method", "policy", "processes"), CASES, ids=["-".join(map(str, case)) for case in CASES]
)
def test_a_few_steps(
    experiments: Experiments, inputs: Inputs, tmp_path: Path, method: str, policy: str, processes: int
) -> None:
    recipe, out = recipe_of(experiments, method, policy), tmp_path / "facts.json"
    if processes == 1:
        train(recipe, inputs, out)
    else:
        codes = in_processes(processes, lambda rank: train(recipe, inputs, out), seconds=600)
        assert codes == [0] * processes

    facts = json.loads(out.read_text())
    assert facts["processes"] == processes
    losses = {key for key in facts["logged"][0] if key.startswith("loss")}
    expected = {"loss_generator", "loss_discriminator"} if recipe.objective.distributional else set()
    assert losses == expected | ({"loss_instance"} if recipe.objective.instance else set())
    assert all(math.isfinite(value) for step in facts["logged"] for value in step.values())
    if recipe.init == "random":  # gradients have to get past last layers that start at zero first
        assert not facts["frozen"]
        assert len(facts["same"]) < facts["names"]
    else:
        assert set(facts["same"]) == set(facts["frozen"])  # these to the bit, and no other
    if policy in FROZEN:
        assert facts["count"] == FROZEN[policy]
