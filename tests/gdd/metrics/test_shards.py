from __future__ import annotations

import torch

from gdd.metrics.frechet import Moments


def test_moments_can_be_passed_on() -> None:
    features = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    whole, total = Moments(3), Moments(3)
    whole.update(features)
    for part in (features[:13], features[13:], features[:0]):
        moments = Moments(3)
        moments.update(part)
        total.merge(Moments.unpacked(moments.packed()))
    expected, found = whole.gaussian(), total.gaussian()
    assert found.count == expected.count
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.covariance, expected.covariance, rtol=1e-12, atol=1e-14)
