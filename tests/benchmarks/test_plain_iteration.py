"""The project's order of operations and the released one, in a tiny configuration."""

from __future__ import annotations

import copy
import itertools
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from gdd.adversary.discriminator import build_discriminator
from gdd.adversary.feature_network import FeatureNetwork, fold_batch_norms
from gdd.config.architecture import Architecture
from gdd.config.load import load_config
from gdd.distill.freeze import freeze
from gdd.networks.preconditioning import OneStepGenerator
from gdd.randomness import seeded_weights

ROOT = Path(__file__).parents[2]
CHANNELS = (4, 6, 8, 10)
BATCH = 4


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType, ModuleType]:
    """What stands beside the benchmark, found as it finds it when it is run as a script."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import own_iteration
    import plain_iteration
    import stages

    for module in (own_iteration, plain_iteration, stages):
        monkeypatch.delitem(sys.modules, module.__name__)
    return plain_iteration, own_iteration, stages


def published_stages() -> list[nn.Sequential]:
    """Convolutions, batch norms of their own mind, ReLUs and poolings, as in VGG."""
    stages = []
    for inputs, outputs in itertools.pairwise((3, *CHANNELS)):
        norm = nn.BatchNorm2d(outputs)
        for tensor in (norm.running_mean, norm.weight.data, norm.bias.data):
            assert tensor is not None
            tensor.add_(torch.randn(outputs) / 5)
        assert norm.running_var is not None
        norm.running_var.uniform_(0.5, 1.5)
        layers = [nn.Conv2d(inputs, outputs, 3, padding=1), norm, nn.ReLU(inplace=True)]
        stages.append(nn.Sequential(*([] if inputs == 3 else [nn.MaxPool2d(2)]), *layers))
    return stages


def one_step_generator(classes: int) -> OneStepGenerator:
    """Return a small generator, none of whose layers starts near 0."""
    arch = Architecture(
        model_type="SongUNet",
        img_resolution=8,
        label_dim=classes,
        model_channels=8,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(4,),
    )
    generator = OneStepGenerator(arch, torch.float64)
    for parameter in generator.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, 0, parameter[0].numel() ** -0.5)
    return generator


class Staged(FeatureNetwork):
    def taps(self, prepared: torch.Tensor) -> list[torch.Tensor]:
        taps = []
        for stage in self.frozen.children():
            prepared = stage(prepared)
            taps.append(prepared)
        return taps


def last_gradients(optimizer: torch.optim.Adam) -> list[torch.Tensor]:
    """With beta1 = 0, Adam's first moment is the gradient it was last given."""
    parameters = optimizer.param_groups[0]["params"]
    return [optimizer.state[parameter]["exp_avg"].clone() for parameter in parameters]


@pytest.mark.parametrize(("classes", "policy"), [(0, "conv"), (3, "none")])
def test_losses_and_gradients_agree(
    modules: tuple[ModuleType, ModuleType, ModuleType],
    classes: int,
    policy: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # In twice the precision, where the two orders' rounding is no excuse.
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    plain_iteration, own_iteration, stages = modules
    recipe = load_config(ROOT / "config").settings["cifar10-uncond"].recipe
    normalisation = {"mean": (0.5, 0.25, 0.5), "std": (0.5, 0.25, 0.25)}
    with seeded_weights(3):
        published, generator = published_stages(), one_step_generator(classes)
        noises = torch.randn(2, BATCH, 3, 8, 8)
        reals = torch.rand(BATCH, 3, 8, 8) * 2 - 1
    freeze(generator.double(), policy)
    backbone = Staged(
        fold_batch_norms(nn.ModuleList(copy.deepcopy(stage).double() for stage in published)),
        CHANNELS,
        img_channels=3,
        resolution=64,
        channels_last=True,
        **normalisation,
    )
    discriminator = build_discriminator(
        {"tiny": backbone},
        head="downsampling",
        projection_channels=8,
        head_channels=8,
        group=BATCH,
        seed=0,
        label_dim=classes,
    ).double()
    twin = plain_iteration.PlainStages(published, **normalisation, resolution=64).double()
    trainers = [
        plain_iteration.PlainTrainer(recipe, generator, {"tiny": twin}, discriminator),
        own_iteration.OwnTrainer(recipe, generator, discriminator, channels_last=True),
    ]
    labels = functional.one_hot(torch.arange(BATCH) % classes, classes).float() if classes else None
    batch = stages.Batch(reals.double(), labels, *noises.double())
    clock = stages.Stopwatch(torch.device("cpu"))

    results: list[dict[str, Any]] = []
    for trainer in trainers:
        for optimizer in (trainer.optimizer, trainer.discriminator_optimizer):
            optimizer.param_groups[0]["lr"] = 0.0  # so that what follows a step starts from equal weights
        found = trainer.iteration(batch, clock)
        found["generator's gradient"] = last_gradients(trainer.optimizer)
        found["discriminator's gradient"] = last_gradients(trainer.discriminator_optimizer)
        found |= trainer.r1(batch)
        found["gradient of R1"] = last_gradients(trainer.discriminator_optimizer)
        results.append(found)
    plain, own = results
    assert plain.keys() == own.keys()
    for name, expected in plain.items():
        if isinstance(expected, float):
            assert expected > 0
            assert own[name] == pytest.approx(expected, rel=1e-9), name
            continue
        largest = max(float(gradient.abs().max()) for gradient in expected)
        assert largest > 0
        for a, b in zip(own[name], expected, strict=True):
            assert a.shape == b.shape
            assert (a - b).abs().max() < 1e-8 * largest, name


def test_memory_is_counted(modules: tuple[ModuleType, ModuleType, ModuleType]) -> None:
    stages = modules[2]
    numbers = torch.ones(1000, 250)
    peak = stages.peak_memory(lambda: (numbers * 2).exp().sum(), torch.device("cpu"))
    assert 2 * numbers.nbytes <= peak < 2.1 * numbers.nbytes
