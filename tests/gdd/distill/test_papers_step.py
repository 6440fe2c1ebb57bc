"""One iteration of the papers' settings in float64 against the release's, written out in plain torch.

From the project come the U-Net, the weights as they are before the iteration, and which images and noise are drawn;
the feature networks are torchvision's and timm's. All else is computed here, as by the release's processes: each
has a group of images for its batch norms, projections of its own, and sums its losses over these images, and
gradients are averaged over the processes. The settings are reduced in size alone; LPIPS gives way to squared error.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from formulas import adam, one_step, softplus
from random_weights import narrow_vgg, published_state
from release_discriminator import Discriminator, diffaugment
from torch import Tensor
from torch.nn import functional

from gdd.config.architecture import Architecture
from gdd.config.recipe import Recipe
from gdd.data.image_array import ImageArray, write
from gdd.data.loader import EpochOrder
from gdd.diffusion.sampler import load_pairs, make_pairs
from gdd.distill.distill import Inputs, prepare
from gdd.distill.student import Student
from gdd.experiments import Experiments
from gdd.networks.checkpoint import save_network
from gdd.networks.preconditioning import Denoiser
from gdd.randomness import seeded_weights, stream

pytestmark = pytest.mark.slow

SEED, CLASSES = 3, 10
PROCESSES, GROUP = 4, 2
BATCH = PROCESSES * GROUP
IMAGES = 16 * BATCH  # seen before: R1 is due
FIRST_GROUP = IMAGES // GROUP
SIDE = 128  # that feature networks see, the least that the heads can halve
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
# Setting, method, and changes.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "GDD-I": ("cifar10-uncond", "gdd-i", {}),
    "GDD, class-conditional": ("imagenet", "gdd", {}),
    "beside direct imitation, DiffAugment": (
        "afhqv2",
        "gdd-direct",
        {"augment": {"kind": "diffaugment", "cutout": 0.2}, "backbones": ["deit_base_distilled_patch16_224"]},
    ),
}


def small_teacher(kind: str, label_dim: int) -> Denoiser:
    shape: dict[str, Any] = {
        "img_resolution": 16,
        "channel_mult": (1, 2),
        "num_blocks": 1,
        "label_dim": label_dim,
    }
    if kind == "SongUNet":  # NCSN++
        shape |= {"model_channels": 8, "attn_resolutions": (8,), "embedding_type": "fourier"}
        shape |= {"encoder_type": "residual", "resample_filter": (1, 3, 3, 1), "channel_mult_noise": 2}
    else:
        shape |= {"model_channels": 32, "attn_resolutions": (8,)}
    with seeded_weights(1):
        teacher = Denoiser(Architecture(model_type=kind, **shape))  # type: ignore[arg-type]
        for parameter in teacher.parameters():  # a fresh network's last layers are zero
            parameter.data += 0.1 * torch.randn_like(parameter)
    return teacher


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the feature networks few channels, and DeiT small images."""
    create, rounded = timm.create_model, timm.models.efficientnet.round_channels

    def create_model(name: str, **options: Any) -> Any:
        return create(name, **({"embed_dim": 24, "img_size": SIDE} if "deit" in name else {}), **options)

    monkeypatch.setattr(timm, "create_model", create_model)
    monkeypatch.setattr(
        timm.models.efficientnet, "round_channels", lambda channels, **_: rounded(channels, 0.02)
    )
    for module in ("backbones", "projections"):
        monkeypatch.setattr(f"gdd.adversary.{module}.PYRAMID", (12, 24, 48, 96))
    with narrow_vgg():
        yield


def small_recipe(papers: Experiments, case: str) -> Recipe:
    setting, method, changes = CASES[case]
    published = papers.find(setting, method)
    heads, r1 = published.heads, published.r1
    assert published.backbone_statistics == "release"
    assert (heads.kind, heads.projections) == ("downsampling", PROCESSES)
    assert heads.norm_group * PROCESSES == published.batch
    assert r1.gamma * heads.norm_group == 1e-4  # the release's
    weight = published.objective.instance_weight * (heads.norm_group if published.objective.instance else 1)
    assert weight == 1
    small = {
        "images": BATCH,
        "batch": BATCH,
        "snapshot_every": BATCH,
        "precision": "float32",
        "heads": {**heads.model_dump(), "norm_group": GROUP, "channels": 8, "projection_channels": 4}
        | {"class_embedding": "random"},
        "r1": {"gamma": 1e-4 / GROUP, "every": r1.every},
        "objective": published.objective.model_dump(exclude_defaults=True)
        | (
            {"pairs": 6, "distance": "squared", "instance_weight": 1 / GROUP}
            if method == "gdd-direct"
            else {}
        ),
    }
    return Recipe.model_validate({**published.model_dump(), **small, **changes}, strict=False)


def student_of(recipe: Recipe, folder: Path) -> Student:
    conditional = recipe.dataset == "imagenet"
    teacher = small_teacher("DhariwalUNet" if conditional else "SongUNet", CLASSES if conditional else 0)
    save_network(folder / "teacher.safetensors", teacher)
    make_pairs(folder / "pairs.safetensors", folder / "teacher.safetensors", steps=2, count=6)
    for name in recipe.backbones:
        torch.save(published_state(name), folder / f"{name}.pth")
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    data = write(folder / "data", images, np.arange(20) % CLASSES, {"name": recipe.dataset})
    inputs = Inputs(
        folder / "teacher.safetensors",
        folder / "data",
        {name: folder / f"{name}.pth" for name in recipe.backbones},
        pairs=folder / "pairs.safetensors",
    )
    student = prepare(recipe, SEED, inputs, data, folder / "state")
    assert student.discriminator
    for backbone in student.discriminator.backbones.values():
        backbone.resolution = SIDE  # type: ignore[assignment]
    student.generator.dtype = torch.float64
    student.images = IMAGES
    return student


# --- the release's iteration ---------------------------------------------------------------------------------


def drawn(purpose: str, shape: tuple[int, ...], uniform: bool = False) -> list[Tensor]:
    """Return every process's random numbers for this iteration."""
    draw = torch.rand if uniform else torch.randn
    return [
        draw((GROUP, *shape), generator=stream(SEED, purpose, FIRST_GROUP + process))
        for process in range(PROCESSES)
    ]


def averaged(loss_of: Callable[[int], Tensor], weights: list[Tensor]) -> tuple[float, list[Tensor]]:
    """Return the mean over the processes of a loss and of its gradients."""
    total, gradients = 0.0, [torch.zeros_like(weight) for weight in weights]
    for process in range(PROCESSES):
        loss = loss_of(process) / PROCESSES
        total += loss.item()
        found = torch.autograd.grad(loss, weights, allow_unused=True, retain_graph=True)
        gradients = [one if new is None else one + new for one, new in zip(gradients, found, strict=True)]
    return total, gradients


def summed(of_a_logit: Callable[[Tensor], Tensor], logits: list[Tensor]) -> Tensor:
    """Mean over the logits of an image and feature network, sum over these networks and the images."""
    return torch.stack([of_a_logit(of_network).mean(1).sum() for of_network in logits]).sum()


def move_before(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Make a step with random gradients, so that Adam has a past; return these gradients."""
    (parameters,) = (group["params"] for group in optimizer.param_groups)
    generator = torch.Generator().manual_seed(9)
    for parameter in parameters:
        parameter.grad = 0.01 * torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    return [parameter.grad.clone() for parameter in parameters]


def assert_equal(found: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float64
        assert (one - other).abs().max() <= 1e-10 * other.abs().max() + 1e-12


@pytest.mark.parametrize("case", [pytest.param("GDD-I", marks=pytest.mark.thorough), *list(CASES)[1:]])
def test_an_iteration_is_the_releases(
    case: str, papers: Experiments, tmp_path: Path, narrow: None, updates: list[list[Tensor]]
) -> None:
    recipe = small_recipe(papers, case)
    student = student_of(recipe, tmp_path)
    assert student.discriminator
    before = move_before(student.optimizer)
    heads_before = move_before(student.discriminator_optimizer)
    unet, average = copy.deepcopy(student.generator.model), copy.deepcopy(student.average.model)
    names = [f"heads.{name}" for name, _ in student.discriminator.heads.named_parameters()]
    release = Discriminator(student.discriminator.state_dict(), names, recipe.backbones, SIDE)

    conditional, imitates = student.generator.arch.label_dim > 0, recipe.objective.instance is not None
    data = ImageArray.open(tmp_path / "data")
    chosen = EpochOrder(len(data), SEED).indices(IMAGES, BATCH)
    reals = (torch.tensor(data.images[chosen]).permute(0, 3, 1, 2) / 127.5 - 1).split(GROUP)
    one_hot = functional.one_hot(torch.tensor(data.labels[chosen]), CLASSES).double().split(GROUP)
    labels = one_hot if conditional else [None] * PROCESSES
    pairs = load_pairs(tmp_path / "pairs.safetensors")

    def augmented(images: Tensor, purpose: str, process: int) -> Tensor:
        if recipe.augment.kind == "none":
            return images
        return diffaugment(images, drawn(f"{purpose} augmentation", (7,), True)[process], 0.2)

    def logits_of_fakes(purpose: str, process: int) -> list[Tensor]:
        z = drawn(f"{purpose} noise", (3, 16, 16))[process]
        fakes = one_step(unet, z, labels[process])
        return release(augmented(fakes, purpose, process), labels[process], process)

    logged = student.step()
    by_generator, by_heads, by_r1 = updates

    # Only what is in no convolution or projection of a block is trained in GDD-I.
    weights = {
        name: weight
        for name, weight in unet.named_parameters()
        if recipe.freeze == "none"
        or not any(place in name for place in ("block", "up", "down", "in"))
        or not any(layer in name for layer in ("conv", "proj"))
    }
    assert (len(weights) < len(list(unet.parameters()))) == (recipe.freeze == "conv")

    def loss_generator(process: int) -> Tensor:
        loss = summed(lambda logit: softplus(-logit), logits_of_fakes("generator", process))
        if imitates:
            draws = stream(SEED, "pair choice", FIRST_GROUP + process)
            index = torch.randint(len(pairs.z), (GROUP,), generator=draws)
            loss = loss + (one_step(unet, pairs.z[index].double(), None) - pairs.x[index]).square().mean()
        return loss

    release.iterate()
    total, gradients = averaged(loss_generator, list(weights.values()))
    expected = logged["loss_generator"] + (logged["loss_instance"] / GROUP if imitates else 0)
    assert expected == pytest.approx(total / GROUP, rel=1e-11)
    gradients = [gradient / GROUP for gradient in gradients]
    assert_equal(by_generator, gradients)
    with torch.no_grad():
        for weight, gradient, old in zip(weights.values(), gradients, before, strict=True):
            weight.copy_(adam(weight, gradient, recipe.lr.generator, 0.99, [old]))
        assert_equal(student.generator.model.parameters(), unet.parameters())
        decay = 0.5 ** (BATCH / min(recipe.ema.half_life, 0.05 * IMAGES))
        expected_average = [
            decay * old + (1 - decay) * new
            for old, new in zip(average.parameters(), unet.parameters(), strict=True)
        ]
    assert_equal(student.average.model.parameters(), expected_average)

    heads = list(release.trained.values())
    release.iterate()
    fake, of_fakes = averaged(
        lambda process: summed(softplus, logits_of_fakes("discriminator", process)), heads
    )
    release.iterate()
    real, of_reals = averaged(
        lambda process: summed(
            lambda logit: softplus(-logit),
            release(augmented(reals[process], "real", process), labels[process], process),
        ),
        heads,
    )
    assert logged["loss_discriminator"] == pytest.approx((fake + real) / GROUP, rel=1e-11)
    gradients = [(one + other) / GROUP for one, other in zip(of_fakes, of_reals, strict=True)]
    assert_equal(by_heads, gradients)
    rate, beta2 = recipe.lr.discriminator * 16 / 17, 0.99 ** (16 / 17)
    with torch.no_grad():
        for weight, gradient, old in zip(heads, gradients, heads_before, strict=True):
            weight.copy_(adam(weight, gradient, rate, beta2, [old]))

    def penalty(process: int) -> Tensor:
        images = reals[process].clone().requires_grad_(True)
        total = torch.cat(release(images, labels[process], process), dim=1).sum()
        (slope,) = torch.autograd.grad(total, images, create_graph=True)
        return 16 * 1e-4 / 2 * slope.square().sum(dim=(1, 2, 3)).mean()

    release.iterate()
    _, penalties = averaged(penalty, heads)
    penalties = [gradient / GROUP for gradient in penalties]
    assert_equal(by_r1, penalties)
    with torch.no_grad():
        for weight, *past in zip(heads, penalties, heads_before, gradients, strict=True):
            weight.copy_(adam(weight, past[0], rate, beta2, past[1:]))
    state = student.discriminator.state_dict()
    compared = [name for name in state if name.endswith(("_u", "_v")) or name in release.trained]
    assert_equal([state[name] for name in compared], [release.numbers[name] for name in compared])
