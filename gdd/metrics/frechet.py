"""The Frechet distance between two sets of features, each described by its mean and covariance."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from gdd.errors import UserError

# The faster of two ways is taken where rounding can change the distance by less than this part of it.
PRECISE = 1e-6


@dataclass(frozen=True)
class Gaussian:
    """Mean [D] and unbiased covariance [D, D] of feature vectors, in float64."""

    mean: Tensor
    covariance: Tensor

    @property
    def dimension(self) -> int:
        return len(self.mean)


class Moments:
    """Count, mean and scatter matrix of a stream of feature vectors, in float64, on the device of the first.

    The scatter matrix is taken around the running mean (Chan, Golub and LeVeque 1979): sums of raw squares
    lose digits when the mean is large against the spread.
    """

    def __init__(self, dimension: int) -> None:
        self.count = 0
        self._mean = torch.zeros(dimension, dtype=torch.float64)
        self._scatter = torch.zeros(dimension, dimension, dtype=torch.float64)

    @classmethod
    def of(cls, dimension: int, batches: Iterable[Tensor]) -> Self:
        """Return the moments of feature vectors that come in batches [B, D]."""
        moments = cls(dimension)
        for batch in batches:
            moments.update(batch)
        return moments

    def update(self, features: Tensor) -> None:
        """Add feature vectors [B, D] of any floating type; B may be 0."""
        if features.shape[0] == 0:
            return
        if self.count == 0:
            self._mean, self._scatter = self._mean.to(features.device), self._scatter.to(features.device)
        batch = features.to(self._mean.device, torch.float64, copy=True)
        mean = batch.mean(dim=0)
        batch -= mean
        self._scatter.addmm_(batch.T, batch)
        self._shift(len(batch), mean)

    def merge(self, other: Moments) -> None:
        """Add the vectors of `other`."""
        if other.count:
            self._scatter += other._scatter.to(self._scatter.device)
            self._shift(other.count, other._mean.to(self._mean.device))

    def gaussian(self) -> Gaussian:
        """Return mean and covariance of the vectors so far.

        Raises:
            UserError: fewer than two vectors, or one of them held NaN or infinity.
        """
        if self.count < 2:
            raise UserError(f"A covariance needs at least 2 images, got {self.count}; evaluate more images.")
        lower = self._scatter.tril() / (self.count - 1)
        covariance = lower + lower.tril(-1).T  # products of matrices are symmetric up to rounding only
        if not (torch.isfinite(self._mean).all() and torch.isfinite(covariance).all()):
            raise UserError(
                f"The features of {self.count} images hold NaN or infinity; "
                "check the generated images and the feature extractor's weights."
            )
        return Gaussian(self._mean.clone(), covariance)

    def _shift(self, count: int, mean: Tensor) -> None:
        """Account for `count` more vectors with that mean, whose scatter has been added."""
        total = self.count + count
        shift = mean - self._mean
        self._scatter.addr_(shift, shift, alpha=self.count * count / total)
        self._mean += shift * (count / total)
        self.count = total


def frechet_distance(real: Gaussian, fake: Gaussian) -> float:
    """Return |m_r - m_f|^2 + tr(S_r + S_f - 2 (S_r S_f)^(1/2)) (Heusel et al., arXiv:1706.08500, Eq. 6).

    Computed on the CPU: by the same algorithm wherever the features came from. Its sides may be exchanged.
    """
    real_covariance, fake_covariance = real.covariance.cpu(), fake.covariance.cpu()
    apart = (fake.mean.cpu() - real.mean.cpu()).square().sum() + fake_covariance.trace()
    apart += real_covariance.trace()
    trace_of_root, error = _trace_of_root(fake_covariance, real_covariance)
    distance = float(apart - 2 * trace_of_root)
    if not error < PRECISE * distance:
        distance = float(apart - 2 * _trace_of_singular_root(fake_covariance, real_covariance))
    return max(distance, 0.0)  # between equal sets, rounding may leave less than nothing


def _trace_of_root(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Return tr (a b)^(1/2) of covariances of full rank, and about how far off rounding may take it at most.

    With the Cholesky factor b = L L^T, a b has the eigenvalues of the symmetric L^T a L.
    """
    factor, failed = torch.linalg.cholesky_ex(b)
    if failed:
        return 0.0, math.inf
    squares = torch.linalg.eigvalsh(factor.T @ (a @ factor))
    if squares[0] <= 0:
        return 0.0, math.inf
    roots = squares.sqrt()
    # Each eigenvalue may be off by rounding of the largest, and here all are, in one direction.
    error = torch.finfo(torch.float64).eps * squares[-1] * (1 / roots).sum()
    return float(roots.sum()), float(error)


def _trace_of_singular_root(a: Tensor, b: Tensor) -> Tensor:
    """Return tr (a b)^(1/2) of any covariances, in several times the time.

    With a = R_a R_a^T and b = R_b R_b^T, it is the sum of the singular values of R_a^T R_b. Constant pixels
    and small sets make covariances singular, and the root of an eigenvalue that should be 0 has half the
    digits.
    """
    return torch.linalg.svdvals(_root_of_range(a).T @ _root_of_range(b)).sum()


def _root_of_range(covariance: Tensor) -> Tensor:
    """Return R [D, rank] with R R^T = `covariance`, leaving out directions whose variance is rounding."""
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    noise = eigenvalues.abs().max() * covariance.shape[0] * torch.finfo(torch.float64).eps
    kept = eigenvalues > noise
    return vectors[:, kept] * eigenvalues[kept].sqrt()
