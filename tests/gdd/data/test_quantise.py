from __future__ import annotations

import pytest
import torch

from gdd.data.quantise import quantise
from gdd.errors import UserError


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edm_rounding(dtype: torch.dtype) -> None:
    step = 1 / 127.5
    values = [-2.0, -1.0, -0.5 * step, -0.51 * step, 0.0, 0.49 * step, 0.51 * step, 1 - step, 1.0, 1.004, 3.0]
    # -1 gives 0.5, so 0; 1 gives 255.5, clipped to 255 before it is truncated; 0 gives 128.
    expected = [0, 0, 127, 127, 128, 128, 128, 254, 255, 255, 255]
    images = torch.tensor(values, dtype=dtype).reshape(1, 1, 1, -1)
    assert quantise(images).flatten().tolist() == expected


def test_every_byte_survives_the_way_to_the_network_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    images = (levels.float() / 127.5 - 1).reshape(1, 1, 16, 16)
    assert torch.equal(quantise(images).flatten(), levels)


def test_axes_and_half_precision() -> None:
    images = torch.linspace(-1, 1, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    result = quantise(images)
    assert result.dtype == torch.uint8
    assert result.shape == (2, 4, 5, 3)
    assert result.is_contiguous()
    assert result[1, 2, 3, 0] == int(images[1, 0, 2, 3] * 127.5 + 128)
    # In bfloat16 itself 127.5 x + 128 would be off by up to a level here.
    half = torch.tensor([0.7109375], dtype=torch.bfloat16).reshape(1, 1, 1, 1)
    assert quantise(half).item() == int(0.7109375 * 127.5 + 128)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_images_are_refused(value: float) -> None:
    images = torch.zeros(4, 1, 2, 2)
    images[2, 0, 1, 1] = value
    with pytest.raises(UserError, match="1 of 4 generated images hold NaN"):
        quantise(images)
