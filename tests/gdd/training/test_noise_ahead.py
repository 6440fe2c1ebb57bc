"""Noise that is drawn ahead is what would be drawn at once, also where a run jumps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gdd.data.image_array import write
from gdd.distill.shares import Part, Shares
from gdd.training.layout import Layout
from gdd.training.world import ALONE


def test_the_same_numbers(tmp_path: Path) -> None:
    data = write(tmp_path / "d", np.zeros((8, 4, 4, 1), np.uint8), np.zeros(8, np.int64), {"name": "grey"})
    at_once, ahead = (Shares(data, 3, Layout(8, 4, 1), ALONE, classes=0, flip=False) for _ in range(2))
    ahead.ahead = True
    for position, count in ((0, 4), (4, 4), (8, 4), (12, 4), (16, 8), (80, 8), (88, 4), (92, 4), (96, 4)):
        part = Part(torch.zeros(count, 1, 4, 4), None, position, 8)
        for purpose in ("generator noise", "discriminator noise"):
            expected = at_once.noise(purpose, part, (1, 4, 4))
            assert torch.equal(ahead.noise(purpose, part, (1, 4, 4)), expected)
            assert expected.shape == (count, 1, 4, 4)
    assert at_once._drawn == {}
    assert len(ahead._drawn) == 4  # a place in the batch each
