"""The Inception Score (Salimans et al., arXiv:1606.03498)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from gdd.errors import UserError


def inception_score(probabilities: Tensor, splits: int = 10) -> tuple[float, float]:
    """Return mean and population standard deviation of exp(E KL(p(y|x) || p(y))) over consecutive splits.

    `probabilities` [N, C] holds one softmax output a row. The rows are split in the order they come in, so
    they must not be sorted by class.

    Raises:
        UserError: fewer rows than splits, or rows that are no probabilities.
    """
    count = len(probabilities)
    if count < splits:
        raise UserError(
            f"The Inception Score over {splits} splits needs {splits} images or more, got {count}."
        )
    rows = probabilities.to(torch.float64)
    # NaN fails the comparison as well.
    if not (bool((rows >= 0).all()) and bool(((rows.sum(dim=1) - 1).abs() < 1e-3).all())):
        raise UserError(
            "The Inception Score needs class probabilities: rows that are not negative and sum to 1."
        )
    bounds = [index * count // splits for index in range(splits + 1)]
    scores = torch.stack([_score(rows[low:high]) for low, high in pairwise(bounds)])
    return float(scores.mean()), float(scores.std(correction=0))


def _score(rows: Tensor) -> Tensor:
    marginal = rows.mean(dim=0)
    # xlogy is 0 at 0, the limit of p log p.
    divergence = torch.xlogy(rows, rows) - torch.xlogy(rows, marginal)
    return divergence.sum(dim=1).mean().exp()
