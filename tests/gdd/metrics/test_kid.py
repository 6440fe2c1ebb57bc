from __future__ import annotations

import numpy as np
import pytest
import torch
from cleanfid import fid as cleanfid
from torch import Tensor

from gdd.errors import UserError
from gdd.metrics.kid import kernel_distance


def features(count: int, dimension: int = 6, seed: int = 0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimension, generator=generator, dtype=torch.float64) + shift


def test_by_hand_over_all_pairs() -> None:
    real, fake = features(5, 3, seed=1), features(5, 3, seed=2, shift=0.5)

    def kernel(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    within = sum(
        kernel(points[i], points[j]) for points in (real, fake) for i in range(5) for j in range(5) if i != j
    )
    between = sum(kernel(a, b) for a in real for b in fake)
    # A subset of everything is everything, in another order.
    assert kernel_distance(real, fake, subsets=3) == pytest.approx(within / 20 - 2 * between / 25, rel=1e-12)


def test_clean_fids_value_for_the_same_seed() -> None:
    real, fake = features(60, seed=1), features(45, seed=2, shift=0.3)
    np.random.seed(7)  # noqa: NPY002
    theirs = cleanfid.kernel_distance(real.numpy(), fake.numpy(), num_subsets=8, max_subset_size=20)
    ours = kernel_distance(real, fake, subsets=8, subset_size=20, seed=7)
    assert ours == pytest.approx(theirs, rel=1e-12)
    assert kernel_distance(real, fake, subsets=8, subset_size=20, seed=8) != pytest.approx(theirs, rel=1e-4)


def test_equal_distributions_are_at_zero_on_average_and_the_global_state_stays() -> None:
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.RandomState(3).random()
    same = kernel_distance(features(400, seed=1).float(), features(400, seed=2), subset_size=50)
    moved = kernel_distance(features(400, seed=1), features(400, seed=2, shift=0.5), subset_size=50)
    assert abs(same) < 0.05 < moved
    assert np.random.random() == expected  # noqa: NPY002


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (features(1), features(5), "at least 2 images of either kind, got 1 and 5"),
        (features(5), features(5, 4), r"\[5, 6\] and \[5, 4\] cannot be compared"),
        (features(5), torch.full((5, 6), torch.nan), "NaN or infinity"),
    ],
)
def test_misuse(real: Tensor, fake: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        kernel_distance(real, fake)
