"""The Frechet distance between two sets of features, each described by its mean and covariance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gdd.errors import UserError


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
        self.count = 0
        self._mean = torch.zeros(dimension, dtype=torch.float64)
        self._scatter = torch.zeros(dimension, dimension, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Add feature vectors [B, D] of any floating type; B may be 0."""
        if features.ndim != 2 or features.shape[1] != self._mean.shape[0]:
            raise ValueError(f"expected features [B, {self._mean.shape[0]}], got {list(features.shape)}")
        if features.shape[0] == 0:
            return
        batch = features.to(torch.float64)
        mean = batch.mean(dim=0)
        centred = batch - mean
        self._absorb(batch.shape[0], mean, centred.T @ centred)

    def merge(self, other: Moments) -> None:
        """Add everything `other` has seen, for instance on another device."""
        if other.count:
            self._absorb(other.count, other._mean, other._scatter)

    def packed(self) -> Tensor:
        """Return everything as one float64 tensor [D + 2, D], to be passed to another process."""
        count = torch.full_like(self._mean, self.count)
        return torch.cat([count[None], self._mean[None], self._scatter])

    @classmethod
    def unpacked(cls, packed: Tensor) -> Moments:
        """Return what `packed` gave."""
        moments = cls(packed.shape[1])
        moments.count, moments._mean, moments._scatter = int(packed[0, 0]), packed[1], packed[2:]
        return moments

    def gaussian(self) -> Gaussian:
        """Return what has been seen so far.

        Raises:
            UserError: fewer than two vectors were seen, or one of them held NaN or infinity.
        """
        if self.count < 2:
            raise UserError(f"A covariance needs at least 2 images, got {self.count}; evaluate more images.")
        covariance = self._scatter / (self.count - 1)
        if not (torch.isfinite(self._mean).all() and torch.isfinite(covariance).all()):
            raise UserError(
                f"The features of {self.count} images hold NaN or infinity; "
                "check the generated images and the feature extractor's weights."
            )
        return Gaussian(self._mean.clone(), covariance, self.count)

    def _absorb(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if self.count == 0:
            self._mean, self._scatter = self._mean.to(mean.device), self._scatter.to(mean.device)
        device, total = self._mean.device, self.count + count
        mean, scatter = mean.to(device), scatter.to(device)
        shift = mean - self._mean
        self._scatter += scatter + torch.outer(shift, shift) * (self.count * count / total)
        self._mean += shift * (count / total)
        self.count = total


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Return |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Heusel et al., arXiv:1706.08500, Eq. 6).

    With S = R R^T, the trace of the root is the sum of the singular values of R_a^T R_b: they are the
    roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2), found without squaring. The digits lost by squaring
    would come back through the square root for singular covariances, which small sets and constant pixels
    have.

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
    roots = _root_of_range(covariance_a).T @ _root_of_range(covariance_b)
    trace_of_root = torch.linalg.svdvals(roots).sum()
    offset = (mean_a - mean_b).square().sum()
    distance = float(offset + covariance_a.trace() + covariance_b.trace() - 2 * trace_of_root)
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


def _root_of_range(covariance: Tensor) -> Tensor:
    """Return R [D, rank] with R R^T = `covariance`, leaving out directions whose variance is rounding."""
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    noise = eigenvalues.abs().max() * covariance.shape[0] * torch.finfo(torch.float64).eps
    kept = eigenvalues > noise
    return vectors[:, kept] * eigenvalues[kept].sqrt()
