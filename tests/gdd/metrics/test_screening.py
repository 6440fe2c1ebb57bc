from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gdd.metrics import neighbours, screening
from gdd.metrics.neighbours import nearest_distance, neighbour_metrics

DIMENSION = neighbours.DIRECT_DIMENSIONS + 44


def points(count: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, DIMENSION, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def two_far_clusters(spread: float) -> tuple[Tensor, Tensor]:
    """Sets whose distances are nothing but rounding in a float32 product, whatever the origin."""
    real, fake = spread * points(80, 0), spread * points(70, 1)
    real[::2] += 1000.0
    fake[::2] += 1000.0
    return real, fake


def with_copies() -> tuple[Tensor, Tensor]:
    """A generator that makes three images, one of them a training image, and real images that repeat."""
    real = points(80, 2)
    real[40:60] = real[:20]
    fake = torch.cat([real[:1], points(2, 3)])[torch.arange(70) % 3]
    return real, fake


def directly(real: Tensor, fake: Tensor, patch: pytest.MonkeyPatch) -> tuple[float, ...]:
    with patch.context() as limited:
        limited.setattr(neighbours, "DIRECT_DIMENSIONS", DIMENSION)
        return (*neighbour_metrics(real, fake), *nearest_distance(fake, real).tolist())


@pytest.mark.parametrize("block", [7, 64, 4096])
@pytest.mark.parametrize(
    "sets",
    [
        (points(80, 0), points(70, 1)),
        (points(80, 0), points(70, 1) + 100.0),
        (points(80, 0), points(70, 1, torch.float64)),
        (points(80, 0).half(), points(70, 1).half()),
        (1e-20 * points(80, 0), 1e-20 * points(70, 1)),
        (1e18 * points(80, 0), 1e18 * points(70, 1)),
        (torch.full((9, DIMENSION), 0.1), torch.full((8, DIMENSION), 0.1)),
        two_far_clusters(1e-1),
        two_far_clusters(1e-3),
        with_copies(),
    ],
    ids=[
        "plain",
        "apart",
        "mixed types",
        "halves",
        "tiny",
        "huge",
        "constant",
        "clusters",
        "tight clusters",
        "copies",
    ],
)
def test_equals_all_differences(
    sets: tuple[Tensor, Tensor], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, fake = sets
    expected = directly(real, fake, monkeypatch)
    found = (*neighbour_metrics(real, fake, block=block), *nearest_distance(fake, real, block=block).tolist())
    assert found[:4] == expected[:4]
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_bounds_hold_and_are_of_use() -> None:
    x, y = screening.on_common_scale(points(60, 4), 3 * points(50, 5) - 7.0, block=32)
    assert float(torch.cat([x.norms, y.norms]).max()) <= 1
    every = slice(None)
    for dtype, least in ((torch.float32, 1e-3), (torch.float64, 1e-11)):
        lowest, row_slack, column_slack = screening._lower_bounds(
            x.tile(every, dtype), y.tile(every, dtype), dtype
        )
        differences = (x.original.double()[:, None] - y.original.double()[None]) * x.scale
        exact = differences.square().sum(dim=2)
        highest = lowest.double() + row_slack[:, None] + column_slack
        assert bool((lowest.double() <= exact).all())
        assert bool((exact <= highest).all())
        assert bool((highest - lowest.double() < least * exact).all())


def test_hardly_any_pair_needs_its_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    plain = screening._from_differences

    def counted(a: screening.Points, rows: Tensor, b: screening.Points, columns: Tensor) -> Tensor:
        seen.append(len(rows))
        return plain(a, rows, b, columns)

    monkeypatch.setattr(screening, "_from_differences", counted)
    real, fake = points(600, 6), points(500, 7)
    neighbour_metrics(real, fake)
    candidates = (len(real) + len(fake)) * (3 + screening.SPARE)
    assert candidates <= sum(seen) < candidates + 0.01 * len(real) * len(fake)


def test_coarser_products_are_neither_used_nor_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    during: list[str] = []
    plain = screening._lower_bounds

    def watched(*arguments: object) -> object:
        during.append(torch.get_float32_matmul_precision())
        return plain(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(screening, "_lower_bounds", watched)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        neighbour_metrics(points(20, 8), points(20, 9))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(during) == {"highest"}
