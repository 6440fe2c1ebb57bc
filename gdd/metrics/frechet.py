"""The Frechet distance between two sets of features, each described by its mean and covariance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gdd.errors import UserError

STRIP = 256  # columns of a symmetric matrix that are computed at once, from the diagonal down
# Of a distance: where the bound of rounding is larger, the slower way is taken. It knows nothing of errors
# that cancel and is too large by far: with a bound of 1e-6 the two ways were never more than 1e-12 apart.
PRECISE = 1e-6


@dataclass(frozen=True)
class Gaussian:
    """Mean [D] and unbiased covariance [D, D] of `count` feature vectors, in float64."""

    mean: Tensor
    covariance: Tensor
    count: int

    @property
    def dimension(self) -> int:
        """The number of features D."""
        return self.mean.shape[0]


class Moments:
    """Count, mean and scatter matrix of a stream of feature vectors, in float64.

    The scatter matrix is taken around the running mean (Chan, Golub and LeVeque 1979), because sums of raw
    squares lose digits when the mean is large against the spread. Order and batch size change the result
    by rounding only. The sums live on the device of the first features.
    """

    def __init__(self, dimension: int) -> None:
        self._absorbed = 0
        self._mean = torch.zeros(dimension, dtype=torch.float64)
        self._scatter = torch.zeros(
            dimension, dimension, dtype=torch.float64
        )  # its lower triangle, by strips
        self._waiting: list[Tensor] = []

    @property
    def count(self) -> int:
        """The number of feature vectors so far."""
        return self._absorbed + sum(map(len, self._waiting))

    def update(self, features: Tensor) -> None:
        """Add feature vectors [B, D] of any floating type; B may be 0."""
        if features.ndim != 2 or features.shape[1] != self._mean.shape[0]:
            raise ValueError(f"expected features [B, {self._mean.shape[0]}], got {list(features.shape)}")
        if features.shape[0] == 0:
            return
        self._move_to(features.device)
        self._waiting.append(features.to(self._mean.device, torch.float64, copy=True))
        # A few at a time cost more in passing over the matrix than in products.
        if sum(map(len, self._waiting)) >= self._mean.shape[0]:
            self._absorb_waiting()

    def merge(self, other: Moments) -> None:
        """Add everything `other` has seen, for instance on another device."""
        if other.count:
            self._absorb_waiting()
            other._absorb_waiting()
            self._move_to(other._mean.device)
            self._scatter += other._scatter.to(self._mean.device)
            self._shift(other._absorbed, other._mean.to(self._mean.device))

    def packed(self) -> Tensor:
        """Return everything as one float64 tensor [D + 2, D], to be passed to another process."""
        self._absorb_waiting()
        count = torch.full_like(self._mean, self._absorbed)
        return torch.cat([count[None], self._mean[None], self._scatter])

    @classmethod
    def unpacked(cls, packed: Tensor) -> Moments:
        """Return what `packed` gave."""
        moments = cls(packed.shape[1])
        moments._absorbed, moments._mean, moments._scatter = int(packed[0, 0]), packed[1], packed[2:]
        return moments

    def gaussian(self) -> Gaussian:
        """Return what has been seen so far.

        Raises:
            UserError: fewer than two vectors were seen, or one of them held NaN or infinity.
        """
        if self.count < 2:
            raise UserError(f"A covariance needs at least 2 images, got {self.count}; evaluate more images.")
        self._absorb_waiting()
        lower = self._scatter.tril() / (self.count - 1)
        covariance = lower + lower.tril(-1).T
        if not (torch.isfinite(self._mean).all() and torch.isfinite(covariance).all()):
            raise UserError(
                f"The features of {self.count} images hold NaN or infinity; "
                "check the generated images and the feature extractor's weights."
            )
        return Gaussian(self._mean.clone(), covariance, self.count)

    def _move_to(self, device: torch.device) -> None:
        if self.count == 0:
            self._mean, self._scatter = self._mean.to(device), self._scatter.to(device)

    def _absorb_waiting(self) -> None:
        if not self._waiting:
            return
        batch = torch.cat(self._waiting)
        self._waiting = []
        mean = batch.mean(dim=0)
        batch -= mean
        for rest, strip in _strips(len(mean)):
            self._scatter[rest, strip].addmm_(batch[:, rest].T, batch[:, strip])
        self._shift(len(batch), mean)

    def _shift(self, count: int, mean: Tensor) -> None:
        """Account for `count` more vectors with that mean, whose scatter has been added."""
        total = self._absorbed + count
        shift = mean - self._mean
        self._scatter.addr_(shift, shift, alpha=self._absorbed * count / total)
        self._mean += shift * (count / total)
        self._absorbed = total


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Return |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Heusel et al., arXiv:1706.08500, Eq. 6).

    Raises:
        UserError: the dimensions differ, or a value is not finite.
    """
    if a.dimension != b.dimension:
        raise UserError(
            f"The two sets have {a.dimension} and {b.dimension} features; use one feature extractor for both."
        )
    for part in (a.mean, a.covariance, b.mean, b.covariance):
        if not torch.isfinite(part).all():
            raise UserError("The Frechet distance of values that are NaN or infinite is undefined.")
    # On the CPU: once per evaluation, and the same algorithm wherever the features came from.
    mean_a, mean_b, covariance_a, covariance_b = (
        part.cpu() for part in (a.mean, b.mean, a.covariance, b.covariance)
    )
    apart = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace()
    trace_of_root, error = _trace_of_root(covariance_a, covariance_b)
    distance = float(apart - 2 * trace_of_root)
    if not error < PRECISE * distance:
        distance = float(apart - 2 * _trace_of_singular_root(covariance_a, covariance_b))
    return max(distance, 0.0)  # between equal sets, rounding may leave less than nothing


def require_enough_samples(count: int, features: int) -> None:
    """Refuse a Frechet distance from too few images.

    Raises:
        UserError: `count` images cannot span `features` dimensions.
    """
    if count <= features:
        raise UserError(
            f"{count} images are too few for a Frechet distance on {features} features: their covariance is "
            f"singular and the distance strongly biased; use at least {features + 1} images."
        )


def _trace_of_root(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Return tr (a b)^(1/2) of covariances of full rank, and about how far off rounding may take it at most.

    With the Cholesky factor b = L L^T, a b has the eigenvalues of the symmetric L^T a L.
    """
    factor, failed = torch.linalg.cholesky_ex(b)
    if failed:
        return 0.0, math.inf
    inner = torch.zeros_like(a)
    for rest, strip in _strips(len(a)):  # eigvalsh reads the lower triangle only
        inner[rest, strip] = factor[rest, rest].T @ (a[rest, rest] @ factor[rest, strip])
    squares = torch.linalg.eigvalsh(inner)
    if squares[0] <= 0:
        return 0.0, math.inf
    roots = squares.sqrt()
    # Each eigenvalue may be off by rounding of the largest, and here all are, in one direction.
    error = torch.finfo(torch.float64).eps * squares[-1] * (1 / roots).sum()
    return float(roots.sum()), float(error)


def _trace_of_singular_root(a: Tensor, b: Tensor) -> Tensor:
    """Return tr (a b)^(1/2) of any covariances, in several times the time.

    With S = R R^T, the trace of the root is the sum of the singular values of R_a^T R_b: they are the
    roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2), found without squaring. The digits lost by squaring
    would come back through the square root for singular covariances, which small sets and constant pixels
    have.
    """
    return torch.linalg.svdvals(_root_of_range(a).T @ _root_of_range(b)).sum()


def _root_of_range(covariance: Tensor) -> Tensor:
    """Return R [D, rank] with R R^T = `covariance`, leaving out directions whose variance is rounding."""
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    noise = eigenvalues.abs().max() * covariance.shape[0] * torch.finfo(torch.float64).eps
    kept = eigenvalues > noise
    return vectors[:, kept] * eigenvalues[kept].sqrt()


def _strips(dimension: int) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and the columns of strips that cover a matrix's lower triangle."""
    for start in range(0, dimension, STRIP):
        yield slice(start, dimension), slice(start, min(start + STRIP, dimension))
