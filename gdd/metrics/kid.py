"""The kernel Inception distance (Binkowski et al., arXiv:1801.01401)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gdd.errors import UserError
from gdd.metrics.neighbours import check_features


def kernel_distance(
    real: Tensor, fake: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> float:
    """Return the unbiased estimate of the squared MMD between `real` [N, D] and `fake` [M, D].

    The mean of `subsets` estimates, each from min(N, M, subset_size) images of either set, without
    replacement within a subset. It may be negative. In float64; clean-fid draws the same subsets after
    `numpy.random.seed(seed)` and gives the same value up to the float32 it computes in.

    Raises:
        UserError: fewer than two images in a set, different numbers of features, or a value is not finite.
    """
    real, fake = check_features(real, fake)
    size = min(len(real), len(fake), subset_size)
    if size < 2:
        raise UserError(f"KID needs at least 2 images of either kind, got {len(real)} and {len(fake)}.")
    random = np.random.RandomState(seed)

    def drawn(features: Tensor) -> Tensor:
        chosen = random.choice(len(features), size, replace=False)
        return features[torch.from_numpy(chosen).to(features.device)].double()

    # The generated images are drawn first, as clean-fid does.
    return sum(_squared_mmd(drawn(fake), drawn(real)) for _ in range(subsets)) / subsets


def _squared_mmd(x: Tensor, y: Tensor) -> float:
    """Return the unbiased estimate from as many points of either set (arXiv:1801.01401, Eq. 4)."""
    count = len(x)
    within = _kernel(x, x) + _kernel(y, y)
    off_diagonal = (within.sum() - within.diagonal().sum()) / (count * (count - 1))
    return float(off_diagonal - 2 * _kernel(x, y).sum() / count**2)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3
