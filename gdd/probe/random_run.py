"""A setting's networks with random weights, of which nothing has to be downloaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import timm
import torch
from torch import Tensor, nn

from gdd.adversary.backbones import PUBLISHED, Backbone
from gdd.config.architecture import Architecture
from gdd.config.recipe import Recipe
from gdd.data.image_array import ImageArray, write
from gdd.distill.distill import Inputs, prepare
from gdd.distill.student import Student
from gdd.experiments import Experiments
from gdd.networks.checkpoint import save_network
from gdd.networks.classifier import SmallClassifier, save_classifier
from gdd.networks.preconditioning import Denoiser
from gdd.probe.plain import as_published, unfolded
from gdd.training.world import Execution, World

IMAGES = 256  # of noise, that stand for a data set


class RandomRun(NamedTuple):
    """A recipe, the files it starts from, all of them random, and its backbones before anything is folded."""

    recipe: Recipe
    inputs: Inputs
    data: ImageArray
    backbones: Mapping[str, Backbone]

    def student(
        self, batch: int, world: World, *, plain: bool = False, graphs: bool = False, **choices: Any
    ) -> Student:
        """Return a student before its first step, all `batch` images of which go through at once.

        With `plain` it has one set of random projections and fresh fakes, as `PlainTrainer` computes; else a
        set for each group, as a process with so many has in every batch.
        """
        group = min(self.recipe.heads.norm_group, batch)
        sets = 1 if plain else min(self.recipe.heads.projections, batch // group)
        heads = {"norm_group": group, "projections": sets}
        changes = {"batch": batch, "backbone_statistics": "published", **choices}
        if plain:
            changes["reuse_fakes"] = False
        changes["heads"] = self.recipe.heads.model_copy(update=heads)
        recipe = self.recipe.model_copy(update=changes)
        execution = Execution(images_at_once=batch, cuda_graphs=graphs)
        state = self.inputs.data.parent / "state"
        return prepare(recipe, 0, self.inputs, self.data, state, world=world, execution=execution)


def recipe_of(experiments: Experiments, setting: str, method: str) -> Recipe:
    """Return the recipe of a method in a setting, without files that only others have."""
    return experiments.recipe(setting, method, {"heads": {"class_embedding": "random"}}, "the probe")


def random_run(folder: Path, recipe: Recipe, arch: Architecture) -> RandomRun:
    """Write random inputs; backbones that nobody publishes become small classifiers."""
    torch.manual_seed(0)
    teacher = Denoiser(arch)
    with torch.no_grad():  # fresh layers that end a branch are almost 0, and would hide the rest
        for parameter in teacher.parameters():
            if parameter.ndim > 1:
                parameter.normal_().mul_(parameter[0].numel() ** -0.5)
    save_network(folder / "teacher.safetensors", teacher)
    backbones = {}
    for name in recipe.backbones:
        if name in PUBLISHED:
            published = PUBLISHED[name]
            net = timm.create_model(published.timm, features_only=True, out_indices=published.taps)
            state = random_state(getattr(net, "model", net))  # timm wraps a transformer
            # The publisher's file has the layers of a VGG under `features`.
            state = {key.replace("features_", "features."): value for key, value in state.items()}
            torch.save(state, folder / name)
            backbones[name] = as_published(name, state)
        else:
            small = random_classifier(arch)
            save_classifier(folder / name, small)
            backbones[name] = unfolded(small)
    shape = (IMAGES, arch.img_resolution, arch.img_resolution, arch.img_channels)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    labels = np.arange(IMAGES) % max(arch.label_dim, 1)
    data = write(folder / "data", images, labels, {"name": "noise"})
    files = {name: folder / name for name in backbones}
    return RandomRun(recipe, Inputs(folder / "teacher.safetensors", folder / "data", files), data, backbones)


def random_classifier(
    arch: Architecture, architecture: Literal["plain", "residual"] = "plain", width: int = 32
) -> SmallClassifier:
    """Return a small classifier of images as a network with this architecture makes them."""
    small = SmallClassifier(architecture, width, arch.img_channels, 10, arch.img_resolution)
    small.load_state_dict(random_state(small))
    return small


def random_state(net: nn.Module) -> dict[str, Tensor]:
    """Return weights that keep a signal's size through ReLUs, and batch norms that are no identities."""
    state = {}
    for key, like in net.state_dict().items():
        values = torch.randn(like.shape)
        if key.endswith("num_batches_tracked"):
            values = torch.tensor(0)
        elif key.endswith("running_var"):
            values = values.abs() + 0.5
        elif like.ndim == 1:
            values = 0.1 * values + float(key.endswith("weight"))
        else:
            values *= math.sqrt(2 / math.prod(like.shape[1:]))
        state[key] = values
    return state
