from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gdd.errors import UserError
from gdd.metrics.export import export
from gdd.metrics.sources import open_source

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3), dtype=np.uint8)


@pytest.fixture
def source(tmp_path: Path) -> Any:
    np.savez(tmp_path / "in.npz", images=IMAGES)
    return open_source(tmp_path / "in.npz")


def test_an_array(tmp_path: Path, source: Any) -> None:
    export(source, tmp_path / "out.npz", start=2, count=4)
    assert np.array_equal(np.load(tmp_path / "out.npz")["images"], IMAGES[2:6])


def test_a_folder_is_read_again_in_the_same_order(tmp_path: Path, source: Any) -> None:
    (tmp_path / "out").mkdir()  # empty
    export(source, tmp_path / "out", start=1, count=6)
    again = open_source(tmp_path / "out")
    assert np.array_equal(again.images(0, 6).numpy(), IMAGES[1:])
    assert (tmp_path / "out" / "00000000" / "00000001.png").is_file()
    with pytest.raises(UserError, match="holds something already"):
        export(source, tmp_path / "out", start=0, count=1)


def test_a_grid(tmp_path: Path, source: Any) -> None:
    export(source, tmp_path / "out.png", start=0, count=7)
    picture = np.asarray(Image.open(tmp_path / "out.png"))
    assert picture.shape == (12, 12, 3)
    assert np.array_equal(picture[4:8, 4:8], IMAGES[4])
    assert not picture[8:, 4:].any()
    np.savez(tmp_path / "in.npz", images=IMAGES[:2, :, :, :1])
    export(open_source(tmp_path / "in.npz"), tmp_path / "grey.png", start=0, count=2)
    assert np.asarray(Image.open(tmp_path / "grey.png")).shape == (4, 8)


def test_misuse(tmp_path: Path, source: Any) -> None:
    with pytest.raises(UserError, match=r"should end in \.npz"):
        export(source, tmp_path / "out.jpg", start=0, count=1)
    with pytest.raises(UserError, match="at most 4,096"):
        export(source, tmp_path / "out.png", start=0, count=5000)
    with pytest.raises(UserError, match="holds 7 images"):
        export(source, tmp_path / "out.npz", start=0, count=8)
    assert not (tmp_path / "out.npz").exists()
