"""One generator, discriminator and R1 step in float64 against the papers' formulas, written out in plain torch.

No function of gdd computes a loss, a coefficient or an update here: given are the U-Net F, the discriminator's
logits D (reference numbers pin both elsewhere), the noise and the data. The reference does what the release
does: it sums over the images of a batch norm group, averages over the groups, and weighs R1 by its own gamma.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from formulas import adam, one_step, softplus
from torch import Tensor, nn
from torch.nn import functional

from gdd.adversary.discriminator import ProjectedDiscriminator
from gdd.data.loader import EpochOrder
from gdd.diffusion.sampler import load_pairs
from gdd.distill.distill import prepare
from gdd.distill.student import Student
from gdd.randomness import noise, stream

pytestmark = pytest.mark.slow

SEED, BATCH, GROUP = 5, 8, 4
IMITATION = 3.0  # weight of the instance-based loss beside the adversarial one
EVERY, ITERATION = 2, 4  # R1 is due
RELEASED_GAMMA = 0.4
RATES = {"generator": 1e-3, "discriminator": 2e-3}

Formula = Callable[[Tensor], Tensor]
# Of one logit: the generator's loss, and the discriminator's on a generated and on a real image.
LOSSES: dict[str, tuple[Formula, Formula, Formula]] = {
    "softplus": (lambda logit: softplus(-logit), softplus, lambda logit: softplus(-logit)),
    "hinge": (lambda logit: -logit, lambda x: (1 + x).clamp(min=0), lambda x: (1 - x).clamp(min=0)),
}


def released(of_a_logit: Formula, logits: list[Tensor]) -> Tensor:
    """Mean over the logits of an image and backbone; sum over backbones and a group's images; mean over groups."""
    per_image = sum((of_a_logit(of_backbone).mean(1) for of_backbone in logits), torch.zeros(BATCH))
    return per_image.reshape(-1, GROUP).sum(1).mean()


def seen(discriminator: ProjectedDiscriminator, images: Tensor, labels: Tensor | None) -> list[Tensor]:
    """Return the logits; a group goes through the projections of its index in the run modulo their count."""
    features, first = [], ITERATION * BATCH // GROUP
    for name, backbone in discriminator.backbones.items():
        sets: Any = discriminator.projections[name]
        groups = enumerate(images.split(GROUP), first)
        outputs = [sets[index % len(sets)](backbone(group)) for index, group in groups]
        features.append([torch.cat(taps) for taps in zip(*outputs, strict=True)])
    return discriminator.logits(features, labels)


def double_student(toy: Any, folder: Path, conditional: bool, **changes: Any) -> Student:
    recipe = toy.recipe(
        backbones=["one", "two"],
        lr=RATES,
        r1={"gamma": RELEASED_GAMMA / GROUP, "every": EVERY},  # as the papers' settings state it
        **changes,
    )
    student = prepare(recipe, SEED, toy.inputs(conditional), toy.data, folder)
    assert student.discriminator
    student.generator.dtype = torch.float64
    student.images = ITERATION * BATCH
    return student


def given(toy: Any, conditional: bool) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """Return the images, the labels, and the noise of the generator's and of the discriminator's step."""
    start = ITERATION * BATCH
    chosen = EpochOrder(len(toy.data), SEED).indices(start, BATCH)
    images = torch.tensor(toy.data.images[chosen]).permute(0, 3, 1, 2) / 127.5 - 1
    labels = functional.one_hot(torch.tensor(toy.data.labels[chosen]), 4).double() if conditional else None
    groups = [start // GROUP + number for number in range(BATCH // GROUP)]
    z = [
        torch.cat([noise(SEED, purpose, group, (GROUP, 1, 8, 8)) for group in groups]).double()
        for purpose in ("generator noise", "discriminator noise")
    ]
    return images, labels, z


def assert_equal(found: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float64
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def direct_imitation(toy: Any, conditional: bool, unet: nn.Module) -> Tensor:
    """Mean squared difference of each image from the teacher's, for the pairs that are drawn; mean over images."""
    pairs, draws = load_pairs(toy.pairs[conditional]), []
    for number in range(BATCH // GROUP):
        source = stream(SEED, "pair choice", ITERATION * BATCH // GROUP + number)
        draws.append(torch.randint(len(pairs.z), (GROUP,), generator=source))
    chosen = torch.cat(draws)
    labels = functional.one_hot(pairs.labels[chosen], 4).double() if pairs.labels is not None else None
    output = one_step(unet, pairs.z[chosen].double(), labels)
    return (output - pairs.x[chosen]).square().mean()


@pytest.mark.parametrize(
    ("loss", "conditional", "reuse", "imitate", "projections"),
    [
        ("softplus", False, False, False, 1),
        ("softplus", True, True, False, 1),
        ("hinge", True, False, True, 1),
        ("hinge", False, True, False, 4),
        ("softplus", False, True, True, 1),
        ("softplus", True, False, False, 4),
    ],
)
def test_an_iteration_is_the_papers_formulas(
    toy: Any,
    tmp_path: Path,
    updates: list[list[Tensor]],
    loss: str,
    conditional: bool,
    reuse: bool,
    imitate: bool,
    projections: int,
) -> None:
    objective: dict[str, Any] = {"distributional": loss}
    if imitate:
        objective |= {"instance": "direct", "pairs": 10, "instance_weight": IMITATION}
    heads_of = {"kind": "local", "channels": 4, "projection_channels": 4, "norm_group": GROUP}
    heads_of |= {"projections": projections}
    changes = {"objective": objective, "reuse_fakes": reuse, "heads": heads_of}
    student = double_student(toy, tmp_path, conditional, **changes)
    of_generator, of_fake, of_real = LOSSES[loss]
    x, labels, (z, z_again) = given(toy, conditional)
    unet, discriminator = copy.deepcopy(student.generator.model), copy.deepcopy(student.discriminator)
    assert discriminator
    weights, heads = list(unet.parameters()), list(discriminator.heads.parameters())
    logged = student.step()
    generator_step, discriminator_step, r1_step = updates

    # L_G = loss(D(G(z))), and the weighted instance-based loss
    fakes = one_step(unet, z, labels)
    loss_generator = released(of_generator, seen(discriminator, fakes, labels))
    assert logged["loss_generator"] == pytest.approx(loss_generator.item() / GROUP, rel=1e-11)
    if imitate:
        loss_instance = direct_imitation(toy, conditional, unet)
        assert logged["loss_instance"] == pytest.approx(loss_instance.item(), rel=1e-11)
        loss_generator = loss_generator + GROUP * IMITATION * loss_instance
    gradients = [gradient / GROUP for gradient in torch.autograd.grad(loss_generator, weights)]
    assert_equal(generator_step, gradients)
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.copy_(adam(weight, gradient, RATES["generator"], 0.99, []))
        assert_equal(student.generator.model.parameters(), weights)

        # L_D = loss(D(G(z'))) + loss(D(x)), x the same images, G as it is now
        if not reuse:
            fakes = one_step(unet, z_again, labels)
    loss_discriminator = released(of_fake, seen(discriminator, fakes.detach(), labels))
    loss_discriminator = loss_discriminator + released(of_real, seen(discriminator, x, labels))
    gradients = [gradient / GROUP for gradient in torch.autograd.grad(loss_discriminator, heads)]
    assert logged["loss_discriminator"] == pytest.approx(loss_discriminator.item() / GROUP, rel=1e-11)
    assert_equal(discriminator_step, gradients)
    ratio = EVERY / (EVERY + 1)  # of lazy regularisation
    rate, beta2 = RATES["discriminator"] * ratio, 0.99**ratio
    with torch.no_grad():
        for weight, gradient in zip(heads, gradients, strict=True):
            weight.copy_(adam(weight, gradient, rate, beta2, []))

    # every * gamma / 2 * mean over images of ||d sum D(x) / dx||^2, in a step of its own
    x.requires_grad_(True)
    total = sum(logits.sum() for logits in seen(discriminator, x, labels))
    (slope,) = torch.autograd.grad(total, x, create_graph=True)
    r1 = EVERY * RELEASED_GAMMA / 2 * slope.square().sum(dim=(1, 2, 3)).mean()
    found = student.discriminator.heads.parameters()  # type: ignore[union-attr]
    penalties = torch.autograd.grad(r1, heads, allow_unused=True)  # none for what is only added to the logits
    assert sum(penalty is not None for penalty in penalties) > len(heads) / 2
    for one, new, weight, before, penalty in zip(r1_step, found, heads, gradients, penalties, strict=True):
        expected = torch.zeros_like(weight) if penalty is None else penalty / GROUP
        assert_equal([one], [expected])
        moved = weight if penalty is None else adam(weight, expected, rate, beta2, [before])
        assert_equal([new], [moved])
