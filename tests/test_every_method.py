"""Every method and freeze policy with CIFAR-10's real network.

The weights are random and the images few, because only what is trained and what stays frozen is looked at.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gdd.config.freeze import frozen_names
from gdd.config.recipe import Recipe
from gdd.data.image_array import ImageArray, write
from gdd.distill.distill import Inputs, prepare
from gdd.experiments import Experiments
from gdd.networks.checkpoint import save_network
from gdd.networks.classifier import SmallClassifier, save_classifier
from gdd.networks.preconditioning import Denoiser
from gdd.randomness import seeded_weights

pytestmark = pytest.mark.slow

SETTING = "cifar10-uncond"
STEPS, BATCH = 2, 2
# What differs from the setting's recipe: its length and its batch, one step of the teacher's solver, and
# feature networks that need no download.
SMALL: dict[str, Any] = {
    "images": STEPS * BATCH,
    "batch": BATCH,
    "snapshot_every": STEPS * BATCH,
    "teacher_sampler": {"steps": 2},
    "backbones": ["small"],
    "heads": {"kind": "local", "channels": 8, "projection_channels": 8, "norm_group": 2},
    "r1": {"gamma": 1e-4, "every": 1},
    "precision": "float32",
    "ema": {"half_life": 8, "ramp": 1.0},
}
# Frozen of the published network, by the rule of the papers' code (a test of the policies computes them anew).
FROZEN = {"none": 0, "conv": 47_597_568, "conv+qkv": 48_781_824, "conv+qkv+skip": 51_015_168}
POLICIES = [*FROZEN, "norms-only", ("model.enc.*", "!*norm*")]
METHODS = ["gdd-direct", "direct", "pd", "cd", "ctm", "rcd"]
ALL = [*(("gdd", policy) for policy in POLICIES), *((method, "none") for method in METHODS)]
# Half a minute each: two stand for all.
FEW = [("gdd", "conv"), ("pd", "none")]
CASES = [pytest.param(*case, marks=[pytest.mark.thorough] * (case not in FEW)) for case in ALL]


@pytest.fixture(scope="module")
def inputs(papers: Experiments, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("cifar10")
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    write(folder / "data", images, np.arange(16) % 10, {"name": "c"})
    with seeded_weights(0):
        teacher = Denoiser(papers.config.teachers["edm-cifar10-32x32-uncond-ve"].architecture)
        with torch.no_grad():  # fresh networks give almost nothing: their last layers start at zero
            for parameter in teacher.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
        network = SmallClassifier("plain", 8, 3, 10, 32).eval()
    save_network(folder / "teacher.safetensors", teacher)
    save_classifier(folder / "small.safetensors", network, feature_scale=1.0)
    return Inputs(folder / "teacher.safetensors", folder / "data", {"small": folder / "small.safetensors"})


@pytest.mark.parametrize(("method", "policy"), CASES, ids=str)
def test_a_few_steps(
    papers: Experiments, inputs: Inputs, tmp_path: Path, method: str, policy: str | tuple[str, ...]
) -> None:
    published = papers.find(SETTING, method)
    objective = published.objective.model_copy(update={"pairs": 0, "distance": "squared"})
    changes = SMALL | {"objective": objective, "freeze": policy}
    recipe = Recipe.model_validate(dict(published) | changes, strict=False)
    student = prepare(recipe, 0, inputs, ImageArray.open(inputs.data), tmp_path)
    before = {name: tensor.clone() for name, tensor in student.generator.named_parameters()}
    frozen = frozen_names(before, policy)
    logged = [student.step() for _ in range(STEPS)]

    losses = {key for key in logged[0] if key.startswith("loss")}
    expected = {"loss_generator", "loss_discriminator"} if objective.distributional else set()
    assert losses == expected | ({"loss_instance"} if objective.instance else set())
    assert all(math.isfinite(value) for scalars in logged for value in scalars.values())
    after = dict(student.generator.named_parameters())
    assert {name for name, old in before.items() if torch.equal(old, after[name])} == set(frozen)
    if policy in FROZEN:
        assert sum(before[name].numel() for name in frozen) == FROZEN[str(policy)]
