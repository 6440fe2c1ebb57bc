from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gdd.errors import DivergedError, UserError
from gdd.metrics.image_sets import open_image_set

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images" / "b").mkdir(parents=True)
    for index, image in enumerate(IMAGES):
        (tmp_path / "images" / ("b" if index > 3 else ".") / f"{index}.png").write_bytes(png(image))
    return tmp_path / "images"


@pytest.mark.parametrize("key", ["images", "arr_0", "samples"])
def test_arrays(tmp_path: Path, key: str) -> None:
    np.savez(tmp_path / "a.npz", **{key: IMAGES, "arr_1": np.arange(6)})
    found = open_image_set(tmp_path / "a.npz")
    assert (found.kind, found.count, found.shape, found.evaluations) == ("images", 6, (3, 8, 8), None)
    assert torch.equal(found.images(1, 4), torch.from_numpy(IMAGES[1:5]))


def test_folders_and_archives_give_the_same_images_in_the_order_of_names(
    tmp_path: Path, folder: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in sorted(folder.rglob("*.png"), reverse=True):
            archive.write(file, file.relative_to(folder))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(folder, ".")
    digests = set()
    for path in (folder, tmp_path / "a.zip", tmp_path / "a.tar"):
        found = open_image_set(path)
        assert (found.count, found.shape) == (6, (3, 8, 8))
        assert np.array_equal(found.images(0, 6).numpy(), IMAGES)
        assert np.array_equal(found.images(3, 2).numpy(), IMAGES[3:5])
        digests.add(found.sha256)
    assert len(digests) == 3


def test_the_hash_of_a_folder_follows_contents(folder: Path) -> None:
    before = open_image_set(folder).sha256
    assert open_image_set(folder).sha256 == before
    (folder / "0.png").write_bytes(png(IMAGES[1]))
    assert open_image_set(folder).sha256 != before


def test_misuse_of_arrays(tmp_path: Path) -> None:
    def refused(array: np.ndarray, message: str, key: str = "images") -> None:
        np.savez(tmp_path / "a.npz", **{key: array})
        with pytest.raises(UserError, match=message) as error:
            open_image_set(tmp_path / "a.npz")
        assert "\n" not in str(error.value)

    refused(IMAGES / np.float32(255), r"holds float32 images from 0 to 1, but metrics are of bytes")
    refused(IMAGES.transpose(0, 3, 1, 2), r"holds uint8 \[6, 3, 8, 8\] instead of uint8 images")
    refused(IMAGES.astype(np.int64), "holds int64")
    refused(IMAGES[:0], r"\[0, 8, 8, 3\]")
    refused(IMAGES, "holds no array called images or arr_0", key="pictures")
    np.savez(tmp_path / "a.npz", images=np.full((2, 4, 4, 3), np.nan))
    with pytest.raises(DivergedError, match="NaN"):
        open_image_set(tmp_path / "a.npz")
    (tmp_path / "page.npz").write_text("<html>")
    with pytest.raises(UserError, match=r"cannot be read as an \.npz"):
        open_image_set(tmp_path / "page.npz")
    with pytest.raises(UserError, match="does not exist"):
        open_image_set(tmp_path / "missing.npz")
    with pytest.raises(UserError, match="bare array"):
        open_image_set(tmp_path / "a.npy")


def test_misuse_of_folders(tmp_path: Path, folder: Path) -> None:
    found = open_image_set(folder)
    with pytest.raises(UserError, match="holds 6 images, but the 5 from 3 on are asked for"):
        found.images(3, 5)
    (folder / "1.png").write_bytes(png(IMAGES[1][:4, :4]))
    with pytest.raises(UserError, match=r"The image 1.png in .* is 4x4, not 8x8"):
        found.images(0, 3)
    (folder / "0.png").write_bytes(png(IMAGES[0][:4]))
    with pytest.raises(UserError, match="is 8x4; only square ones fit"):
        open_image_set(folder)
    (folder / "0.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"The image 0.png in .* cannot be read"):
        open_image_set(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        open_image_set(tmp_path / "empty")
