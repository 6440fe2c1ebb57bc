"""Metrics that compare two sets of features: nearest neighbours and KID, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gdd.errors import UserError

PART = 2**25  # entries of a distance matrix at a time: 256 MiB
# Of the squared lengths of two vectors: how far off their squared distance may be that comes of a product of
# matrices. Distances count as equal up to here, so that copies and equal distances lie on a ball's boundary.
ROUNDING = 1e-12


class NeighbourMetrics(NamedTuple):
    """Precision and recall (arXiv:1904.06991), density and coverage (arXiv:2002.09797)."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbour_metrics(real: Tensor, fake: Tensor, k: int = 3) -> NeighbourMetrics:
    """Compare `real` [N, D] with `fake` [M, D].

    A point's ball reaches to its k-th nearest neighbour in its own set, itself not counted, boundary
    included. Precision is the share of fakes inside some real ball, recall the share of reals inside some
    fake ball; density counts the real balls a fake lies in, over k, and coverage is the share of real balls
    that hold a fake.

    Raises:
        UserError: a set has no more than k points, the dimensions differ, or a value is not finite.
    """
    real, fake = _check_features(real, fake)
    for points, name in ((real, "real"), (fake, "generated")):
        if len(points) <= k:
            raise UserError(
                f"{len(points)} {name} images are too few for {k} nearest neighbours; use more than {k}."
            )
    real_radii, fake_radii = (
        _nearest(points, points, k, exclude_self=True)[:, -1] for points in (real, fake)
    )
    balls_around_fake = torch.zeros(len(fake), dtype=torch.int64, device=real.device)
    covered, recalled = [], []
    for rows, squares in _squared_distances(real, fake):
        in_real = squares <= real_radii[rows, None].square()
        balls_around_fake += in_real.sum(dim=0)
        covered.append(in_real.any(dim=1))
        recalled.append((squares <= fake_radii.square()).any(dim=1))
    return NeighbourMetrics(
        precision=_share(balls_around_fake > 0),
        recall=_share(torch.cat(recalled)),
        density=float(balls_around_fake.sum()) / (k * len(fake)),
        coverage=_share(torch.cat(covered)),
    )


def nearest_ratio(real: Tensor, fake: Tensor) -> float | None:
    """Return the median distance of `fake` [M, D] to the nearest of `real` [N, D] over that between reals.

    Far below 1 means copies. None where the real images are copies of each other.

    Raises:
        UserError: fewer than two real images, the dimensions differ, or a value is not finite.
    """
    real, fake = _check_features(real, fake)
    if len(real) < 2:
        raise UserError(f"{len(real)} real image is too few to search a nearest neighbour in.")
    between_real = _nearest(real, real, 1, exclude_self=True).quantile(0.5)
    return float(_nearest(fake, real, 1).quantile(0.5) / between_real) if between_real > 0 else None


def kernel_distance(
    real: Tensor, fake: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> float:
    """Return KID, the unbiased estimate of the squared MMD between `real` [N, D] and `fake` [M, D].

    The mean of `subsets` estimates, each from min(N, M, subset_size) images of either set, without
    replacement within a subset (arXiv:1801.01401). It may be negative. clean-fid draws the same subsets after
    `numpy.random.seed(seed)` and gives the same value up to the float32 it computes in.

    Raises:
        UserError: fewer than two images in a set, different numbers of features, or a value is not finite.
    """
    real, fake = _check_features(real, fake)
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


def _check_features(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return two sets of features that can be compared, on the first one's device."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise UserError(
            f"Features of shapes {list(a.shape)} and {list(b.shape)} cannot be compared; "
            "use one feature extractor for both."
        )
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise UserError("Features hold NaN or infinity; check the images and the extractor's weights.")
    return a, b.to(a.device)


def _nearest(queries: Tensor, base: Tensor, k: int, exclude_self: bool = False) -> Tensor:
    """Return every query's k smallest Euclidean distances to `base`, ascending: [N, D], [M, D] -> [N, k].

    With `exclude_self`, `queries` is `base`, and row i does not count for itself; a copy elsewhere does.
    """
    found = []
    for rows, squares in _squared_distances(queries, base):
        if exclude_self:
            squares[:, rows].fill_diagonal_(torch.inf)
        nearest = squares.topk(k, dim=1, largest=False).indices
        # From differences, so that copies are at 0.
        distances = torch.cdist(
            queries[rows, None].double(),
            base[nearest].double(),
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        found.append(distances[:, 0].sort(dim=1).values)
    return torch.cat(found)


def _squared_distances(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield a few rows of `a` at a time, and their squared distances to all of `b` less possible rounding."""
    b = b.double()
    b_squares = (1 - ROUNDING) * b.square().sum(dim=1)
    size = max(1, min(PART // len(b), 1024))
    for start in range(0, len(a), size):
        rows = slice(start, min(start + size, len(a)))
        part = a[rows].double()
        sums = (1 - ROUNDING) * part.square().sum(dim=1, keepdim=True) + b_squares
        yield rows, sums.addmm_(part, b.T, alpha=-2)


def _share(flags: Tensor) -> float:
    return float(flags.sum()) / len(flags)
