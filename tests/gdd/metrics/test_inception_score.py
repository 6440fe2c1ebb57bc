from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gdd.errors import UserError
from gdd.metrics.inception_score import inception_score


def test_published_scores(golden: Path) -> None:
    with np.load(golden / "metrics" / "features.npz") as stored:
        probabilities = torch.from_numpy(stored["probs"])
        expected_all = float(stored["inception_score_all"])
        expected_ten = (
            float(stored["inception_score_10_splits_mean"]),
            float(stored["inception_score_10_splits_std"]),
        )
    assert inception_score(probabilities, splits=1) == pytest.approx((expected_all, 0.0), rel=1e-6)
    assert inception_score(probabilities) == pytest.approx(expected_ten, rel=1e-6)


def test_certain_and_even_predictions_span_the_range() -> None:
    certain = torch.eye(8).repeat(10, 1)  # holds zeros, where p log p is 0
    assert inception_score(certain, splits=10) == pytest.approx((8.0, 0.0))
    assert inception_score(torch.full((20, 5), 0.2)) == pytest.approx((1.0, 0.0), abs=1e-7)
    # Sorted by class every split sees one class: the order is part of the definition.
    assert inception_score(torch.eye(4).repeat_interleave(10, 0), splits=4)[0] == pytest.approx(1.0)


def test_splits_may_differ_by_one_row() -> None:
    rows = torch.softmax(torch.randn(23, 4, generator=torch.Generator().manual_seed(0)).double(), dim=1)
    parts = [inception_score(rows[low:high], splits=1)[0] for low, high in ((0, 7), (7, 15), (15, 23))]
    assert inception_score(rows, splits=3) == pytest.approx((np.mean(parts), np.std(parts)), rel=1e-12)


def test_rows_that_are_no_probabilities_are_refused() -> None:
    with pytest.raises(UserError, match="10 images or more, got 9"):
        inception_score(torch.full((9, 2), 0.5))
    for bad in (torch.tensor([1.5, -0.5]), torch.tensor([3.0, 4.0]), torch.tensor([torch.nan, 1.0])):
        with pytest.raises(UserError, match="class probabilities"):
            inception_score(bad.repeat(10, 1))
