from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from gdd.adversary import losses
from gdd.adversary.discriminator import ProjectedDiscriminator, build_discriminator
from gdd.adversary.feature_network import SmallBackbone
from gdd.networks.classifier import SmallClassifier
from gdd.networks.seeded import seeded_weights


def logits(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, n, dtype=torch.float64, generator=generator) * 3 for n in (5, 2)]


def literal(values: list[Tensor]) -> Tensor:
    """Mean over one backbone's logits, sum over backbones, one image at a time."""
    return torch.stack([sum(part[b].sum() / part.shape[1] for part in values) for b in range(3)])


def softplus(x: Tensor) -> Tensor:
    return torch.log1p(torch.exp(x))


def test_softplus_losses_are_the_literal_formulas() -> None:
    real, fake = logits(0), logits(1)
    generator = literal([softplus(-part) for part in fake])
    discriminator = literal([softplus(-part) for part in real]) + literal([softplus(part) for part in fake])
    assert torch.allclose(losses.softplus_generator_loss(fake), generator, atol=1e-12)
    assert torch.allclose(losses.softplus_discriminator_loss(real, fake), discriminator, atol=1e-12)


def test_hinge_losses_are_the_literal_formulas() -> None:
    real, fake = logits(2), logits(3)
    discriminator = literal([(1 - part).clamp(min=0) for part in real]) + literal(
        [(1 + part).clamp(min=0) for part in fake]
    )
    assert torch.allclose(losses.hinge_generator_loss(fake), literal([-part for part in fake]), atol=1e-12)
    assert torch.allclose(losses.hinge_discriminator_loss(real, fake), discriminator, atol=1e-12)


def test_softplus_survives_large_logits() -> None:
    large = [torch.full((1, 1), -1e4)]
    assert losses.softplus_generator_loss(large).item() == pytest.approx(1e4)


def discriminator() -> ProjectedDiscriminator:
    with seeded_weights(0):
        backbone = SmallBackbone(SmallClassifier("residual", 4, 1, 10, 8))
    built = build_discriminator(
        {"net": backbone}, head="local", projection_channels=4, head_channels=4, group=2, seed=0
    )
    return built.double().train()


def test_r1_is_the_squared_norm_of_the_gradient_by_finite_differences() -> None:
    net = discriminator()
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    penalty = losses.r1_penalty(copy.deepcopy(net), images)
    # One group of batch norm a perturbed pixel, so that one pass takes all of them.
    step = 1e-5 * torch.eye(128, dtype=torch.float64).reshape(128, 2, 1, 8, 8)
    with torch.no_grad():
        (value,) = net(torch.cat([images + step, images - step]).flatten(0, 1))
    above, below = value.reshape(2, 128, -1).sum(2)
    gradient = ((above - below) / 2e-5).reshape(2, 64)
    assert penalty.shape == (2,)
    assert torch.allclose(penalty, gradient.square().sum(1), rtol=1e-5)


def test_r1_reaches_the_heads_with_the_right_gradient() -> None:
    net = discriminator()
    images = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    trained = copy.deepcopy(net)
    losses.r1_penalty(trained, images).mean().backward()
    parameters = dict(trained.named_parameters())
    name = "heads.net.mini_discs.0.main.3.weight_orig"
    direction = torch.randn_like(parameters[name])

    def moved(distance: float) -> Tensor:
        other = copy.deepcopy(net)
        with torch.no_grad():
            dict(other.named_parameters())[name].add_(distance * direction)
        return losses.r1_penalty(other, images).mean().detach()

    slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
    assert torch.allclose((parameters[name].grad * direction).sum(), slope, rtol=1e-3)
    assert all(parameter.grad is None for parameter in trained.backbones.parameters())


def test_r1_passes_labels_on_and_leaves_the_images_alone() -> None:
    images, labels = torch.randn(2, 1, 4, 4), torch.tensor([1.0, 2.0])

    def weighted(x: Tensor, given: Tensor | None) -> list[Tensor]:
        assert given is labels
        return [(x * labels[:, None, None, None]).flatten(1)]

    assert torch.allclose(losses.r1_penalty(weighted, images, labels), torch.tensor([16.0, 64.0]))
    assert not images.requires_grad
