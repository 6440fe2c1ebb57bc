"""What a step of a paper's setting asks of a device: how many operators, and nothing that makes it wait.

The device is `meta`, which has shapes and no values: whatever wants to see one raises.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from gdd.adversary.backbones import PUBLISHED, _timm, published_backbone
from gdd.adversary.discriminator import build_discriminator
from gdd.data.image_array import write
from gdd.distill.student import Student
from gdd.experiments import Experiments
from gdd.networks.preconditioning import OneStepGenerator
from gdd.training.world import World

pytestmark = pytest.mark.slow

META = torch.device("meta")
MOST = 2950  # operators of a step without R1
# These start nothing on a device: they look at the same memory, or take some.
FREE = [
    "alias",
    "as_strided",
    "detach",
    "diagonal",
    "empty",
    "empty_like",
    "expand",
    "lift_fresh",
    "new_empty",
    "permute",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "t",
    "transpose",
    "unbind",
    "unsqueeze",
    "view",
    "_unsafe_view",
    "_reshape_alias",
]


class Recorder(TorchDispatchMode):
    """Counts the operators on the device by name, and keeps those that are not to be."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.waiting: list[str] = []
        self.slow: list[str] = []
        self.elsewhere: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        tensors = [*_flat(args), *_flat((result,))]
        devices = {value.device.type for value in tensors}
        if "meta" in devices and name not in FREE:
            self.counts[name] += 1
        copied = devices == {"meta", "cpu"} and name in ("copy_", "_to_copy")
        if copied or any(value.device.type == "cpu" and value.ndim for value in tensors):
            self.elsewhere.append(name)
        if copied and not kwargs.get("non_blocking"):
            self.waiting.append(f"{name} of {[tuple(value.shape) for value in _flat(args)]}")
        if name == "convolution" and args[6] and args[8] > 1:
            self.slow.append(f"transposed, {args[8]} groups")
        return result


def _flat(values: Any) -> list[torch.Tensor]:
    return [
        value
        for one in values
        for value in (one if isinstance(one, list | tuple) else (one,))
        if isinstance(value, torch.Tensor)
    ]


@pytest.fixture
def student(papers: Experiments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Student:
    """CIFAR-10, unconditional, GDD: every layer there is, at small widths."""
    # On a GPU attention is one operator; without one PyTorch writes it out.
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    monkeypatch.setattr(
        functional, "scaled_dot_product_attention", lambda q, k, v: efficient(q, k, v, None, True)[0]
    )
    for module in ("torch.optim.adam", "torch.optim.optimizer"):
        supported = f"{module}._get_fused_kernels_supported_devices"
        if hasattr(sys.modules[module], supported.rpartition(".")[2]):
            monkeypatch.setattr(sys.modules[module], "_get_fused_kernels_supported_devices", lambda: ["meta"])
    return build(papers, tmp_path)


def build(papers: Experiments, folder: Path) -> Student:
    heads = {"class_embedding": "random", "channels": 8, "projection_channels": 8}
    changes = {"heads": heads, "precision": "bfloat16", "batch": 64}
    recipe = papers.recipe("cifar10-uncond", "gdd", changes, "test")
    backbones = {}
    for name in recipe.backbones:
        net = _timm(PUBLISHED[name], features_only=True, out_indices=PUBLISHED[name].taps)
        state = {key.replace("features_", "features."): value for key, value in net.state_dict().items()}
        backbones[name] = published_backbone(name, state, 0)
    small = papers.config.teachers[recipe.teacher].architecture.model_copy(update={"model_channels": 16})
    generator = OneStepGenerator(small, torch.bfloat16)
    images = np.zeros((64, 32, 32, 3), np.uint8)
    data = write(folder / "data", images, np.zeros(64, np.int64), {"name": "grey"})
    discriminator = build_discriminator(backbones, recipe.heads, 0)
    student = Student(recipe, generator, discriminator, None, data, 0, folder, world=World(device=META))
    student.images_at_once = recipe.batch
    return student


def test_a_step_is_few_operators_and_waits_for_none(student: Student) -> None:
    student.step()  # in which the optimizers make their state
    trained = [*student.generator.parameters(), *student.discriminator.heads.parameters()]  # type: ignore[union-attr]
    assert all(parameter.grad is not None for parameter in trained)  # else sums between processes would wait
    with Recorder() as recorder:
        student.step()
    print(sum(recorder.counts.values()), recorder.counts.most_common())
    assert recorder.waiting == []
    assert recorder.slow == []
    assert sum(recorder.counts.values()) < MOST


def test_passes_stay_on_the_device(student: Student) -> None:
    """What is recorded as a graph, R1 included, takes nothing but numbers from the CPU: the noise level's."""
    (part,) = student.shares.parts(0, student.images_at_once)
    parts = student.shares.with_noise("generator noise", [part], student.generator.latent_shape)
    assert student.discriminator
    with Recorder() as recorder:
        student._generator_passes(parts)
        student.discriminator.heads.requires_grad_(True)
        student._discriminator_passes([], parts)
        student._r1_passes(parts)
    assert all(parameter.grad is not None for parameter in student.discriminator.heads.parameters())
    assert recorder.elsewhere == []
