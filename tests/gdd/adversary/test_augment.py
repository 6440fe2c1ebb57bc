"""What DiffAugment and ADA share: the numbers of every image decide, gradients flow, a recipe builds them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gdd.adversary.adaptive_augment import AdaptiveAugment
from gdd.adversary.adaptive_probability import AdaptiveProbability
from gdd.adversary.augment import build_augmentation
from gdd.adversary.augmentation import Augmentation
from gdd.adversary.diff_augment import DiffAugment
from gdd.config.recipe import Augment
from gdd.randomness import stream


def adaptive(p: float) -> AdaptiveAugment:
    augmentation = AdaptiveAugment(AdaptiveProbability(64))
    augmentation.load_state_dict({"p": p, "signs": 0.0, "count": 0, "batches": 0})
    return augmentation


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 2 - 1


AUGMENTATIONS = [DiffAugment(), adaptive(0.7)]
KINDS = pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=["diffaugment", "ada"])


@KINDS
@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (3, 1, 8, 8), (2, 3, 6, 10), (1, 3, 1, 1), (0, 3, 8, 8)])
def test_shape_and_type_stay(augmentation: Augmentation, shape: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.float64):
        changed = augmentation(images(*shape).to(dtype), stream(0, "test", 0))
        assert changed.shape == shape
        assert changed.dtype == dtype
        assert changed.isfinite().all()


@KINDS
def test_gradients_are_the_finite_differences(augmentation: Augmentation) -> None:
    given = images(5, 3, 4, 6).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: augmentation(x, stream(1, "test", 0)), (given,), fast_mode=True)


@KINDS
def test_a_group_is_changed_by_its_own_stream_alone(augmentation: Augmentation) -> None:
    given = images(12, 3, 8, 8).float()
    apart = [augmentation(given[6 * i : 6 * i + 6], stream(2, "test", i)) for i in range(2)]
    numbers = torch.cat([augmentation.draw(6, stream(2, "test", i)) for i in range(2)])
    together = augmentation.apply(given, numbers)
    assert torch.equal(torch.cat(apart), together)
    # Nor does it matter where a group is parted.
    pieces = [augmentation.apply(given[a:b], numbers[a:b]) for a, b in ((0, 5), (5, 6), (6, 12))]
    assert torch.equal(torch.cat(pieces), together)
    # Every image's change is its own, and another stream's is another one.
    same = augmentation(given[:1].expand(6, -1, -1, -1), stream(2, "test", 0))
    assert all(not torch.equal(same[i], same[j]) for i in range(6) for j in range(i))
    assert not torch.equal(augmentation(given, stream(2, "test", 2)), together)


@KINDS
def test_numbers_do_not_depend_on_the_images(augmentation: Augmentation) -> None:
    numbers = augmentation.draw(3, stream(3, "test", 0))
    assert numbers.shape == (3, augmentation.width)
    assert torch.equal(
        numbers, torch.rand(3, augmentation.width, generator=stream(3, "test", 0), dtype=torch.float64)
    )


@KINDS
@pytest.mark.parametrize("edge", [0.0, 1 - 2.0**-53])
def test_the_least_and_the_largest_number_do_no_harm(augmentation: Augmentation, edge: float) -> None:
    numbers = torch.full((2, augmentation.width), edge, dtype=torch.float64)
    if isinstance(augmentation, AdaptiveAugment):
        augmentation = adaptive(1.0)
    assert augmentation.apply(images(2, 3, 8, 8), numbers).isfinite().all()


def test_a_recipe_builds_its_augmentation() -> None:
    assert build_augmentation(Augment(), 64) is None
    chosen = build_augmentation(Augment(kind="diffaugment", policies=("cutout",)), 64)
    assert isinstance(chosen, DiffAugment)
    assert chosen.policies == {"cutout"}
    assert chosen.p == 1
    ada = build_augmentation(Augment(kind="ada", target=0.5, speed_kimg=100), 64)
    assert isinstance(ada, AdaptiveAugment)
    assert ada.probability.target == 0.5
    assert ada.probability.step == pytest.approx(64 * 4 / 100_000)
    assert ada.p == 0


def test_state_goes_through_a_checkpoint(tmp_path: Path) -> None:
    before = build_augmentation(Augment(kind="ada"), 1000)
    assert before
    for _ in range(6):
        before.observe(90, 100)
    torch.save(before.state_dict(), tmp_path / "state.pt")
    after = build_augmentation(Augment(kind="ada"), 1000)
    assert after
    after.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert after.p == before.p > 0
    for augmentation in (before, after):
        augmentation.observe(90, 100)
        augmentation.observe(90, 100)
    assert after.state_dict() == before.state_dict()
    fixed = DiffAugment()
    fixed.load_state_dict(fixed.state_dict())
    assert fixed.state_dict() == {}
