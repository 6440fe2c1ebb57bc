"""Exact comparisons of distances in thousands of dimensions, nearly all of them decided in float32.

A matrix product gives the squared distances of a tile in float32 with an error that is bounded, so that most
comparisons are settled by it. The few pairs within the error are computed from differences in float64, by
which copies are at 0 and equal distances are equal. Where they are many (points that are close together but
far from the origin, copies), that tile's product is taken in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

SPARE = 3  # candidates for nearest neighbours beyond those asked for, so that float32 can rule out others
PAIRS = 2**17  # coordinates that are gathered at a time
MANY = 1 / 64  # of a tile's pairs: from here on a product in float64 is cheaper than differences


@dataclass(frozen=True)
class Points:
    """Points as they came, and their scaled coordinates around a common origin, whose length is at most 1."""

    original: Tensor  # [N, D]
    coordinates: Tensor  # [N, D], float32
    norms: Tensor  # [N], float64: the squares of the lengths of `coordinates`
    origin: Tensor  # [D], float32
    scale: float  # a power of two, so that scaling rounds nothing

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.original)

    def tile(self, rows: slice | Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return coordinates [B, D] of that type and their squared lengths [B]."""
        if dtype == torch.float32:
            return self.coordinates[rows], self.norms[rows]
        precise = self.original[rows].to(torch.float64, copy=True).sub_(self.origin).mul_(self.scale)
        return precise, _squared_lengths(precise)


def on_common_scale(*sets: Tensor, block: int) -> list[Points]:
    """Return sets of finite points [N, D], on one device, ready to be compared with one another."""
    # A product loses digits in proportion to the norms, so the origin is moved into the data. It is a float32
    # number, from which points in float32 are subtracted with no more rounding than the result has anyway.
    sums = sum(part.sum(dim=0, dtype=torch.float64) for part in sets[0].split(block))
    origin = (sums / len(sets[0])).float()
    largest = max(float((part - origin).abs().max()) for one in sets for part in one.split(block))
    _, exponent = math.frexp(largest * origin.numel() ** 0.5)
    scale = 2.0 ** -max(min(exponent, 120), -120)  # a number in float32 as well
    found = []
    for one in sets:
        coordinates = torch.empty(one.shape, dtype=torch.float32, device=one.device)
        norms = torch.empty(len(one), dtype=torch.float64, device=one.device)
        for rows in tiles(len(one), block):
            coordinates[rows] = (one[rows] - origin) * scale
            norms[rows] = _squared_lengths(coordinates[rows])
        found.append(Points(one, coordinates, norms, origin, scale))
    return found


def _squared_lengths(points: Tensor) -> Tensor:
    return torch.linalg.vector_norm(points, dim=1, dtype=torch.float64).square()


def kth_nearest(queries: Points, base: Points, k: int, *, exclude_self: bool, block: int) -> Tensor:
    """Return every query's squared distance to its k-th nearest point of `base`, [N] float64, scaled.

    With `exclude_self`, `queries` is `base` and row i does not count for itself.
    """
    kept = min(k + SPARE, len(base) - exclude_self)
    bounds, candidates = _candidates(queries, base, kept, exclude_self, block)
    every = torch.arange(len(queries), device=bounds.device)
    found, certain = _kth_of_candidates(queries, base, every, candidates, bounds, k)
    if kept < len(base) - exclude_self:  # else all have been compared
        unsure = every[~certain]
        for rows in unsure.split(block):
            bounds, candidates = _nearest_in(queries, base, rows, kept, exclude_self, block, torch.float64)
            found[rows], _ = _kth_of_candidates(queries, base, rows, candidates, bounds, k)
    return found


def within(a: Points, rows: slice, b: Points, columns: slice, limits: list[Tensor]) -> list[Tensor]:
    """Return for every one of `limits` which pairs of a tile are at most that far apart: bool [B, C] each.

    A limit is of squared distances as `kth_nearest` gives them: [B, 1] for rows or [1, C] for columns.
    """
    found, unsure = _screened(a, rows, b, columns, limits, torch.float32)
    if float(unsure.sum()) > MANY * unsure.numel():
        found, unsure = _screened(a, rows, b, columns, limits, torch.float64)
    row, column = unsure.nonzero(as_tuple=True)
    distance = _from_differences(a, row + rows.start, b, column + columns.start)
    for inside, limit in zip(found, limits, strict=True):
        inside[row, column] = distance <= limit.expand_as(unsure)[row, column]
    return found


def tiles(length: int, block: int) -> Iterator[slice]:
    """Yield the consecutive slices of at most `block` that make up `length`."""
    for start in range(0, length, block):
        yield slice(start, min(start + block, length))


def _relative_error(dimension: int, dtype: torch.dtype) -> float:
    # Of (|x|^2 + |y|^2): a dot product of D terms, in any order, is off by at most D u |x| |y| (Higham,
    # Accuracy and Stability, Eq. 3.5); norms, coordinates and the final sum are rounded a few times each.
    return (dimension + 16) * torch.finfo(dtype).eps / 2


TINY = 1e-30  # beyond what underflow does to coordinates of at most 1


def _lower_bounds(
    a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return lower bounds [B, C] of squared distances, and what at most a row and a column add to them."""
    (x, x_norms), (y, y_norms) = a, b
    error = _relative_error(x.shape[1], dtype)
    sums = ((1 - error) * x_norms - TINY).to(dtype)[:, None] + ((1 - error) * y_norms - TINY).to(dtype)
    return sums.addmm_(x, y.T, alpha=-2), 2 * (error * x_norms + TINY), 2 * (error * y_norms + TINY)


def _screened(
    a: Points, rows: slice, b: Points, columns: slice, limits: list[Tensor], dtype: torch.dtype
) -> tuple[list[Tensor], Tensor]:
    """Return the pairs that are surely within each limit, and those of which one cannot say."""
    with full_float32():
        lowest, row_slack, column_slack = _lower_bounds(a.tile(rows, dtype), b.tile(columns, dtype), dtype)
    unsure = torch.zeros_like(lowest, dtype=torch.bool)
    found = []
    for limit in limits:
        slack = (row_slack[:, None] + column_slack.max()) if limit.shape[1] == 1 else (
            row_slack.max() + column_slack
        )  # fmt: skip
        # Limits are rounded to the bounds' type; a little more is allowed for on either side.
        margin = torch.finfo(dtype).eps * (limit + slack)
        surely = lowest <= (limit - slack - margin).to(dtype)
        unsure |= (lowest <= (limit + margin).to(dtype)) ^ surely
        found.append(surely)
    return found, unsure


def _candidates(
    queries: Points, base: Points, kept: int, exclude_self: bool, block: int
) -> tuple[Tensor, Tensor]:
    """Return the `kept` smallest lower bounds of every query, ascending, and the points they belong to."""
    if not exclude_self:
        every = torch.arange(len(queries), device=queries.norms.device)
        found = [
            _nearest_in(queries, base, rows, kept, exclude_self, block, torch.float32)
            for rows in every.split(block)
        ]
        return torch.cat([bounds for bounds, _ in found]), torch.cat([points for _, points in found])
    best = _none_yet(len(base), kept, base.norms)
    for rows in tiles(len(base), block):
        for columns in tiles(rows.stop, block):  # distances are symmetric: half of the tiles tell all
            with full_float32():
                lowest, _, _ = _lower_bounds(
                    base.tile(rows, torch.float32), base.tile(columns, torch.float32), torch.float32
                )
            if rows == columns:
                lowest.fill_diagonal_(torch.inf)
            else:
                _keep_smallest(best, columns, lowest.T.contiguous(), rows.start)
            _keep_smallest(best, rows, lowest, columns.start)
    return best


def _nearest_in(
    queries: Points, base: Points, rows: Tensor, kept: int, exclude_self: bool, block: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the smallest lower bounds of some queries and the points they belong to: [B, kept] each."""
    best = _none_yet(len(rows), kept, base.norms)
    some = queries.tile(rows, dtype)
    for columns in tiles(len(base), block):
        with full_float32():
            lowest, _, _ = _lower_bounds(some, base.tile(columns, dtype), dtype)
        if exclude_self:
            own = ((rows >= columns.start) & (rows < columns.stop)).nonzero()[:, 0]
            lowest[own, rows[own] - columns.start] = torch.inf
        _keep_smallest(best, slice(None), lowest, columns.start)
    return best


def _none_yet(count: int, kept: int, like: Tensor) -> tuple[Tensor, Tensor]:
    bounds = like.new_full((count, kept), torch.inf)
    return bounds, torch.zeros_like(bounds, dtype=torch.int64)


def _keep_smallest(best: tuple[Tensor, Tensor], rows: slice, lowest: Tensor, first: int) -> None:
    """Take the smallest bounds [B, C] of the points `first` on into those kept so far."""
    bounds, points = best
    new = lowest.topk(min(bounds.shape[1], lowest.shape[1]), dim=1, largest=False)
    merged = torch.cat([bounds[rows], new.values.double()], dim=1)
    chosen = merged.topk(bounds.shape[1], dim=1, largest=False, sorted=True)
    bounds[rows] = chosen.values
    points[rows] = torch.cat([points[rows], new.indices + first], dim=1).gather(1, chosen.indices)


def _kth_of_candidates(
    queries: Points, base: Points, rows: Tensor, candidates: Tensor, bounds: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Return the k-th smallest squared distance to the candidates, and whether no other point is nearer."""
    repeated = rows[:, None].expand_as(candidates)
    exact = _from_differences(queries, repeated.flatten(), base, candidates.flatten())
    kth = exact.view(candidates.shape).sort(dim=1).values[:, k - 1]
    return kth, (bounds[:, -1] >= kth) | (kth == 0)


def _from_differences(a: Points, rows: Tensor, b: Points, columns: Tensor) -> Tensor:
    """Return the squared distances of pairs, [P] float64, scaled."""
    size = max(PAIRS // a.original.shape[1], 1)
    parts = [
        (a.original[row].double() - b.original[column].double()).square().sum(dim=1)
        for row, column in zip(rows.split(size), columns.split(size), strict=True)
    ]
    return torch.cat(parts) * a.scale**2


@contextmanager
def full_float32() -> Iterator[None]:
    """Let no matrix product be rounded to less than float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
