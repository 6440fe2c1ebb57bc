from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gdd.adversary import losses


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
