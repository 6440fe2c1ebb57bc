"""R1 in forward mode against ordinary double differentiation, in float64, through every kind of backbone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import timm
import torch
import torch.distributed as dist
from forked import in_processes
from random_weights import narrow_vgg, published_state, random_state
from real_weights import real_efficientnet
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gdd.adversary.backbones import (
    BLOCKS,
    PUBLISHED,
    Backbone,
    SmallBackbone,
    TeacherEncoder,
    TransformerBackbone,
    published_backbone,
)
from gdd.adversary.discriminator import ProjectedDiscriminator, build_discriminator
from gdd.adversary.heads import span_processes
from gdd.adversary.r1 import r1_backward
from gdd.config.architecture import Architecture
from gdd.config.recipe import Heads
from gdd.networks.classifier import SmallClassifier
from gdd.networks.preconditioning import Denoiser
from gdd.randomness import seeded_weights

WEIGHT = 0.3


def published(name: str, sets: int = 1) -> Backbone:
    """Return a published backbone for small images; VGG and the transformers are narrow."""
    if PUBLISHED[name].taps == BLOCKS:
        narrow = {"embed_dim": 12, "num_heads": 2, "img_size": 32}
        net = timm.create_model(PUBLISHED[name].timm, features_only=True, out_indices=BLOCKS, **narrow)
        net.load_state_dict(random_state(net.state_dict()))
        return TransformerBackbone(net, 0, sets, resolution=32)
    with narrow_vgg():
        backbone = published_backbone(name, published_state(name), seed=0)
    backbone.resolution = 32
    return backbone


def real() -> Backbone:
    backbone = published_backbone("tf_efficientnet_lite0", real_efficientnet(), 0, "release")
    backbone.resolution = 32
    return backbone


def small(architecture: str) -> Backbone:
    with seeded_weights(0):
        return SmallBackbone(SmallClassifier(architecture, 4, 3, 10, 8))


def encoder(kind: str, label_dim: int) -> Backbone:
    """Return the encoder of a teacher with attention and random weights."""
    width = 8 if kind == "SongUNet" else 32  # ADM's attention heads have 64 channels
    shape = {"img_resolution": 8, "model_channels": width, "channel_mult": (1, 2), "num_blocks": 1}
    with seeded_weights(0):
        teacher = Denoiser(Architecture(model_type=kind, attn_resolutions=(4,), label_dim=label_dim, **shape))
        for parameter in teacher.parameters():  # fresh layers that end a branch are zero
            parameter.data += 0.1 * torch.randn_like(parameter)
    return TeacherEncoder(teacher)


BACKBONES: dict[str, Callable[[], Backbone]] = {
    **{name: lambda name=name: published(name) for name in PUBLISHED},  # type: ignore[misc]
    "real EfficientNet-lite0": real,
    "small plain": lambda: small("plain"),
    "small residual": lambda: small("residual"),
    "encoder of NCSN++ or DDPM++": lambda: encoder("SongUNet", 0),
    "encoder of ADM": lambda: encoder("DhariwalUNet", 3),
}
LARGE = (*PUBLISHED, "real EfficientNet-lite0")


def discriminator(
    backbone: Backbone, *, group: int, label_dim: int = 0, head: str = "local", projections: int = 1
) -> ProjectedDiscriminator:
    heads = Heads(
        kind=head,  # type: ignore[arg-type]
        channels=8,
        projection_channels=4,
        norm_group=group,
        projections=projections,
    )
    sizes = (16, 8, 4, 4)[: len(backbone.channels)]
    net = build_discriminator({"one": backbone}, heads, 0, label_dim, start_sizes=sizes, end_size=4)
    return net.double().train()


def ordinary(
    net: ProjectedDiscriminator, images: Tensor, labels: Tensor | None, groups: Sequence[int] = (0,)
) -> Tensor:
    """Differentiate the gradient's squared norm, as R1 is defined; return the penalties."""
    images = images.clone().requires_grad_(True)
    with sdpa_kernel(SDPBackend.MATH):
        total = torch.cat(net(images, labels, groups), dim=1).sum()
        (gradient,) = torch.autograd.grad(total, images, create_graph=True)
        penalties = gradient.square().sum(dim=(1, 2, 3))
        (WEIGHT * penalties.mean()).backward()
    return penalties.detach()


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.grad for name, value in net.named_parameters() if value.grad is not None}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(name.startswith("heads.") for name in found)
    norm = torch.stack([value.norm() for value in expected.values()]).norm()
    assert norm > 0
    for name, value in expected.items():
        assert (found[name] - value).norm() < 1e-12 * norm, name


def batch(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, 8, 8, dtype=torch.float64, generator=generator) * 2 - 1
    return images, torch.eye(3, dtype=torch.float64)[torch.arange(count) % 3]


def check(
    net: ProjectedDiscriminator, images: Tensor, labels: Tensor | None, groups: Sequence[int] = (0,)
) -> None:
    reference = copy.deepcopy(net)
    expected = ordinary(reference, images, labels, groups)
    found = r1_backward(net, images, labels, WEIGHT, groups)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert_same(gradients(net), gradients(reference))
    for (name, value), other in zip(net.state_dict().items(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-12, atol=1e-14, msg=name)
    assert not images.requires_grad


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in BACKBONES]
)
def test_every_backbone(name: str) -> None:
    head = "downsampling" if name in LARGE else "local"
    images, _ = batch(2)
    check(discriminator(BACKBONES[name](), group=2, head=head), images, None)


@pytest.mark.parametrize("head", ["local", "downsampling"])
def test_groups_and_classes(head: str) -> None:
    check(discriminator(small("plain"), group=2, label_dim=3, head=head), *batch(4))


@pytest.mark.parametrize(
    "make",
    [
        lambda: small("plain"),
        pytest.param(lambda: published("deit_base_distilled_patch16_224", 2), marks=pytest.mark.slow),
    ],
    ids=["small", "transformer"],
)
def test_projections_by_group(make: Callable[[], Backbone]) -> None:
    backbone = make()
    net = discriminator(backbone, group=2, projections=2)
    images, _ = batch(4)
    check(net, images, None, (4, 5))
    one, other = discriminator(backbone, group=2), discriminator(backbone, group=2, projections=2)
    assert not torch.allclose(
        r1_backward(one, images, None, WEIGHT), r1_backward(other, images, None, WEIGHT, (4, 5))
    )


def in_a_process(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo")
    net = discriminator(small("plain"), group=4, label_dim=3)
    span_processes(net, dist.group.WORLD, 2)
    images, labels = batch(4)
    piece = slice(2 * rank, 2 * rank + 2)
    penalties = r1_backward(net, images[piece], labels[piece], WEIGHT / 2)
    torch.save((penalties, gradients(net), net.trainable_state()), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_group_that_two_processes_hold(tmp_path: Path) -> None:
    assert in_processes(2, lambda rank: in_a_process(rank, tmp_path)) == [0, 0]
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    alone = discriminator(small("plain"), group=4, label_dim=3)
    expected = ordinary(alone, *batch(4))
    torch.testing.assert_close(torch.cat([found[0][0], found[1][0]]), expected, rtol=1e-12, atol=0)
    sums = {name: found[0][1][name] + found[1][1][name] for name in found[0][1]}
    assert_same(sums, gradients(alone))
    for _, _, state in found:
        for name, value in alone.trainable_state().items():
            torch.testing.assert_close(state[name], value, rtol=1e-12, atol=1e-14, msg=name)
