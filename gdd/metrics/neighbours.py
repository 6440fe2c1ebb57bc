"""Metrics from nearest neighbours in feature space, exact, one tile of the distance matrix at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gdd.errors import UserError

# Up to here distances come from differences, coordinate by coordinate, so that ties are exact; beyond, from a
# matrix product, which is many times faster in thousands of dimensions and where only copies tie.
DIRECT_DIMENSIONS = 256


class NeighbourMetrics(NamedTuple):
    """Precision and recall (arXiv:1904.06991), density and coverage (arXiv:2002.09797)."""

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall(real: Tensor, fake: Tensor, k: int = 3, block: int = 2048) -> tuple[float, float]:
    """Return improved precision and recall; see `neighbour_metrics`."""
    return neighbour_metrics(real, fake, k, block)[:2]


def density_coverage(real: Tensor, fake: Tensor, k: int = 3, block: int = 2048) -> tuple[float, float]:
    """Return density and coverage; see `neighbour_metrics`."""
    return neighbour_metrics(real, fake, k, block)[2:]


def neighbour_metrics(real: Tensor, fake: Tensor, k: int = 3, block: int = 2048) -> NeighbourMetrics:
    """Compare `real` [N, D] with `fake` [M, D].

    A point's ball reaches to its k-th nearest neighbour in its own set, itself not counted, boundary
    included. Precision is the share of fakes inside some real ball, recall the share of reals inside some
    fake ball (Kynkaanniemi et al., arXiv:1904.06991); density counts the real balls a fake lies in, over k,
    and coverage is the share of real balls that hold a fake (Naeem et al., arXiv:2002.09797).
    Distances are float64; memory is a few matrices of `block` x `block`.

    Raises:
        UserError: a set has no more than k points, the dimensions differ, or a value is not finite.
    """
    real, fake = _prepare(real, fake)
    for name, points in (("real", real), ("generated", fake)):
        if len(points) <= k:
            raise UserError(
                f"{len(points)} {name} images are too few for {k} nearest neighbours; use more than {k}."
            )
    real_radius = _radii(real, k, block)
    fake_radius = _radii(fake, k, block)
    balls_around_fake = torch.zeros(len(fake), dtype=torch.int64, device=real.device)
    real_is_recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    real_is_covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for rows in _tiles(len(real), block):
        for columns in _tiles(len(fake), block):
            distance = _distances(real[rows], fake[columns])
            inside = distance <= real_radius[rows, None]
            balls_around_fake[columns] += inside.sum(dim=0)
            real_is_covered[rows] |= inside.any(dim=1)
            real_is_recalled[rows] |= (distance <= fake_radius[columns]).any(dim=1)
    return NeighbourMetrics(
        precision=_share(balls_around_fake > 0),
        recall=_share(real_is_recalled),
        density=float(balls_around_fake.sum()) / (k * len(fake)),
        coverage=_share(real_is_covered),
    )


def nearest_distance(queries: Tensor, base: Tensor, exclude_self: bool = False, block: int = 2048) -> Tensor:
    """Return each query's Euclidean distance to its nearest point of `base`: [N, D], [M, D] -> [N] float64.

    With `exclude_self`, `queries` is `base`, and row i does not count for itself; a copy elsewhere does.

    Raises:
        UserError: nothing to search in, the dimensions differ, or a value is not finite.
    """
    if exclude_self and len(queries) != len(base):
        raise ValueError(f"exclude_self needs one set, got {len(queries)} queries and {len(base)} points")
    if len(base) <= int(exclude_self):
        raise UserError(f"{len(base)} images are too few to search a nearest neighbour in.")
    queries, base = _prepare(queries, base)
    return _smallest(queries, base, 1, exclude_self, block)[:, 0]


def _prepare(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Check two sets and return them in float64, on the first one's device, ready for `_distances`."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise UserError(
            f"Features of shapes {list(a.shape)} and {list(b.shape)} cannot be compared; "
            "use one feature extractor for both."
        )
    first, second = a.to(torch.float64), b.to(a.device, torch.float64)
    for points in (first, second):
        if not torch.isfinite(points).all():
            raise UserError("Features hold NaN or infinity; check the images and the extractor's weights.")
    if first.shape[1] > DIRECT_DIMENSIONS:
        # The matrix product loses digits in proportion to the norms, so the origin is moved into the data.
        centre = first.mean(dim=0)
        first, second = first - centre, second - centre
    return first, second


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Return Euclidean distances [N, M] between float64 points [N, D] and [M, D]; equal points are at 0."""
    if a.shape[1] <= DIRECT_DIMENSIONS:
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    norms = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)
    squared = torch.addmm(norms, a, b.T, alpha=-2)
    # Below this a difference of such norms is rounding; copies of an image have to come out at 0.
    rounding = norms * (a.shape[1] * torch.finfo(torch.float64).eps)
    return torch.where(squared > rounding, squared, 0.0).sqrt()


def _radii(points: Tensor, k: int, block: int) -> Tensor:
    """Return every point's distance to its k-th nearest other point, [N]."""
    return _smallest(points, points, k, exclude_self=True, block=block)[:, -1]


def _smallest(queries: Tensor, base: Tensor, k: int, exclude_self: bool, block: int) -> Tensor:
    """Return every query's k smallest distances to `base`, ascending: [N, k]."""
    result = queries.new_full((len(queries), k), torch.inf)
    for rows in _tiles(len(queries), block):
        for columns in _tiles(len(base), block):
            distance = _distances(queries[rows], base[columns])
            if exclude_self and rows == columns:
                distance.fill_diagonal_(torch.inf)
            candidates = torch.cat([result[rows], distance], dim=1)
            result[rows] = candidates.topk(k, dim=1, largest=False, sorted=True).values
    return result


def _tiles(length: int, block: int) -> Iterator[slice]:
    for start in range(0, length, block):
        yield slice(start, min(start + block, length))


def _share(flags: Tensor) -> float:
    return float(flags.sum()) / len(flags)
