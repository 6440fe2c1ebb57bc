"""Metrics from nearest neighbours in feature space, exact, one tile of the distance matrix at a time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gdd.errors import UserError
from gdd.metrics import screening
from gdd.metrics.screening import tiles

# Up to here all distances come from differences, coordinate by coordinate; beyond, only those that a matrix
# product, which is many times faster in thousands of dimensions, leaves open. Ties are exact in both.
DIRECT_DIMENSIONS = 256
PART = 2048  # points that are looked at together


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


def squared_radii(points: Tensor, k: int = 3, block: int = 2048) -> Tensor | None:
    """Return the squares of the radii of the balls around `points` [N, D] in their own set: [N], float64.

    They are worth keeping where they take long; None where they do not.

    Raises:
        UserError: there are no more than k points, or a value is not finite.
    """
    points, _ = _checked(points, points)
    _check_enough(points, "real", k)
    compared = _compared(points, points, block)
    return compared.squared_radii(k) if isinstance(compared, _Screened) else None


def neighbour_metrics(
    real: Tensor, fake: Tensor, k: int = 3, block: int = 2048, real_squares: Tensor | None = None
) -> NeighbourMetrics:
    """Compare `real` [N, D] with `fake` [M, D].

    A point's ball reaches to its k-th nearest neighbour in its own set, itself not counted, boundary
    included. Precision is the share of fakes inside some real ball, recall the share of reals inside some
    fake ball (Kynkaanniemi et al., arXiv:1904.06991); density counts the real balls a fake lies in, over k,
    and coverage is the share of real balls that hold a fake (Naeem et al., arXiv:2002.09797).
    Distances are compared as in float64; memory is a few matrices of `block` x `block` and at most a copy of
    the points. `real_squares` is what `squared_radii` gave for `real` and the same k, if it is at hand.

    Raises:
        UserError: a set has no more than k points, the dimensions differ, or a value is not finite.
    """
    real, fake = _checked(real, fake)
    _check_enough(real, "real", k)
    _check_enough(fake, "generated", k)
    compared = _compared(real, fake, block)
    balls_around_fake = torch.zeros(len(fake), dtype=torch.int64, device=real.device)
    real_is_recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    real_is_covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    real_radius, fake_radius = compared.radii(k, real_squares)
    for rows in tiles(len(real), block):
        for columns in tiles(len(fake), block):
            in_real, in_fake = compared.within(rows, columns, real_radius[rows], fake_radius[columns])
            balls_around_fake[columns] += in_real.sum(dim=0)
            real_is_covered[rows] |= in_real.any(dim=1)
            real_is_recalled[rows] |= in_fake.any(dim=1)
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
    queries, base = _checked(queries, base)
    return _compared(base if exclude_self else queries, base, block).nearest(exclude_self)


def nearest_ratio(real: Tensor, fake: Tensor) -> float | None:
    """Return the median distance to the nearest real image over that between real images.

    Far below 1 means copies. None where the real images are copies of each other.
    """
    between_real = nearest_distance(real, real, exclude_self=True).quantile(0.5)
    return float(nearest_distance(fake, real).quantile(0.5) / between_real) if between_real > 0 else None


def _checked(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return two sets on the first one's device."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise UserError(
            f"Features of shapes {list(a.shape)} and {list(b.shape)} cannot be compared; "
            "use one feature extractor for both."
        )
    b = b.to(a.device)
    for points in (a, b):
        if not all(torch.isfinite(part.float()).all() for part in points.split(PART)):
            raise UserError("Features hold NaN or infinity; check the images and the extractor's weights.")
    return a, b


def _check_enough(points: Tensor, name: str, k: int) -> None:
    if len(points) <= k:
        raise UserError(
            f"{len(points)} {name} images are too few for {k} nearest neighbours; use more than {k}."
        )


class _Direct:
    """Two sets of few dimensions, of which all distances are computed."""

    def __init__(self, a: Tensor, b: Tensor, block: int) -> None:
        self._a, self._b, self._block = a.to(torch.float64), b.to(torch.float64), block

    def radii(self, k: int, squares: Tensor | None) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - quickly found
        """Return every point's distance to its k-th nearest other point of its own set: [N] and [M]."""
        a, b = (self._smallest(points, points, k, True)[:, -1] for points in (self._a, self._b))
        return a, b

    def nearest(self, exclude_self: bool) -> Tensor:
        """Return the distance of each point of the first set to its nearest of the second, [N]."""
        return self._smallest(self._a, self._b, 1, exclude_self)[:, 0]

    def within(self, rows: slice, columns: slice, reach: Tensor, other_reach: Tensor) -> list[Tensor]:
        """Return which pairs of a tile [B, C] are within the rows' reach [B], and within the columns' [C]."""
        distance = _distances(self._a[rows], self._b[columns])
        return [distance <= reach[:, None], distance <= other_reach]

    def _smallest(self, queries: Tensor, base: Tensor, k: int, exclude_self: bool) -> Tensor:
        """Return every query's k smallest distances to `base`, ascending: [N, k]."""
        result = queries.new_full((len(queries), k), torch.inf)
        for rows in tiles(len(queries), self._block):
            for columns in tiles(len(base), self._block):
                distance = _distances(queries[rows], base[columns])
                if exclude_self and rows == columns:
                    distance.fill_diagonal_(torch.inf)
                candidates = torch.cat([result[rows], distance], dim=1)
                result[rows] = candidates.topk(k, dim=1, largest=False, sorted=True).values
        return result


class _Screened:
    """The same of many dimensions. Reach is in squares, scaled, between `radii` and `within`."""

    def __init__(self, a: Tensor, b: Tensor, block: int) -> None:
        self._block = block
        sets = screening.on_common_scale(*([a] if a is b else [a, b]), block=block)
        self._a, self._b = sets[0], sets[-1]

    def radii(self, k: int, squares: Tensor | None) -> tuple[Tensor, Tensor]:
        # The scale is a power of two, so that nothing is rounded.
        known = None if squares is None else squares.to(self._a.norms) * self._a.scale**2
        return self._radii(self._a, k) if known is None else known, self._radii(self._b, k)

    def squared_radii(self, k: int) -> Tensor:
        return self._radii(self._a, k) / self._a.scale**2

    def _radii(self, points: screening.Points, k: int) -> Tensor:
        return screening.kth_nearest(points, points, k, exclude_self=True, block=self._block)

    def nearest(self, exclude_self: bool) -> Tensor:
        squares = screening.kth_nearest(self._a, self._b, 1, exclude_self=exclude_self, block=self._block)
        return squares.sqrt() / self._a.scale

    def within(self, rows: slice, columns: slice, reach: Tensor, other_reach: Tensor) -> list[Tensor]:
        return screening.within(self._a, rows, self._b, columns, [reach[:, None], other_reach[None]])


def _compared(a: Tensor, b: Tensor, block: int) -> _Direct | _Screened:
    return (_Direct if a.shape[1] <= DIRECT_DIMENSIONS else _Screened)(a, b, block)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _share(flags: Tensor) -> float:
    return float(flags.sum()) / len(flags)
