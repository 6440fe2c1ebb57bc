"""The kernel Inception distance (Binkowski et al., arXiv:1801.01401)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gdd.errors import UserError

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 0
DEFINITION = (
    f"unbiased squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, mean over {SUBSETS} subsets "
    f"of at most {SUBSET_SIZE} images, drawn by numpy's RandomState({SEED}) in clean-fid's order"
)


def kernel_distance(
    real: Tensor, fake: Tensor, *, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = SEED
) -> float:
    """Return the unbiased estimate of the squared MMD between `real` [N, D] and `fake` [M, D].

    The mean of `subsets` estimates, each from min(N, M, subset_size) images of either set, without
    replacement within a subset. It may be negative. In float64; clean-fid draws the same subsets after
    `numpy.random.seed(seed)` and gives the same value up to the float32 it computes in.

    Raises:
        UserError: fewer than two images in a set, different numbers of features, or a value is not finite.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise UserError(
            f"Features of shapes {list(real.shape)} and {list(fake.shape)} cannot be compared; "
            "use one feature extractor for both."
        )
    size = min(len(real), len(fake), subset_size)
    if size < 2:
        raise UserError(f"KID needs at least 2 images of either kind, got {len(real)} and {len(fake)}.")
    random = np.random.RandomState(seed)
    total = 0.0
    for _ in range(subsets):
        # The generated images are drawn first.
        x = _drawn(fake, size, random).to(real.device)
        y = _drawn(real, size, random)
        total += _squared_mmd(x, y)
    distance = total / subsets
    if not np.isfinite(distance):
        raise UserError("Features hold NaN or infinity; check the images and the extractor's weights.")
    return distance


def _drawn(features: Tensor, size: int, random: np.random.RandomState) -> Tensor:
    chosen = torch.from_numpy(random.choice(len(features), size, replace=False))
    return features[chosen.to(features.device)].double()


def _squared_mmd(x: Tensor, y: Tensor) -> float:
    """Return the unbiased estimate from as many points of either set (arXiv:1801.01401, Eq. 4)."""
    count = len(x)
    within = _kernel(x, x) + _kernel(y, y)
    off_diagonal = (within.sum() - within.diagonal().sum()) / (count * (count - 1))
    return float(off_diagonal - 2 * _kernel(x, y).sum() / count**2)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3
