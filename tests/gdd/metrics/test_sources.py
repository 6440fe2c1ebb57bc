"""Images of generators, teachers and files, by their indices."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gdd.config.recipe import Sampler
from gdd.data.image_array import quantise
from gdd.diffusion.sampling import sample_range
from gdd.distill.generate import generate
from gdd.errors import DivergedError, UserError
from gdd.metrics.sources import open_source
from gdd.networks.checkpoint import load_denoiser, load_generator, save_network
from gdd.networks.preconditioning import OneStepGenerator

STOCHASTIC = Sampler(steps=2, churn=1.0)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def generators(world: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    plain, conditional, broken = (
        OneStepGenerator.from_denoiser(load_denoiser(world.teachers[conditional]))
        for conditional in (False, True, False)
    )
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    several = OneStepGenerator.from_denoiser(load_denoiser(world.teachers[False]), steps=3).eval()
    folder = tmp_path_factory.mktemp("generators")
    networks = {"plain": plain, "conditional": conditional, "several": several, "broken": broken}
    for name, network in networks.items():
        described = {"dataset": "blobs"} if name == "plain" else {}
        save_network(folder / f"{name}.safetensors", network, **described)
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["plain", "conditional", "several"])
def test_images_are_those_of_training_and_of_any_split(generators: dict[str, Path], name: str) -> None:
    source = open_source(generators[name], batch=3)
    images = source.images(2, 8)
    assert (images.dtype, images.shape) == (torch.uint8, (8, 8, 8, 1))
    assert torch.equal(images, quantise(generate(load_generator(generators[name]), 2, 8)))
    assert torch.equal(images, open_source(generators[name], batch=100).images(2, 8))
    assert torch.equal(images, torch.cat([source.images(2, 1), source.images(3, 7)]))
    assert not torch.equal(images, open_source(generators[name], seed=1).images(2, 8))


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("sampler", [Sampler(steps=2), STOCHASTIC], ids=["Heun", "stochastic"])
def test_a_teachers_images(world: Any, conditional: bool, sampler: Sampler) -> None:
    source = open_source(world.teachers[conditional], sampler=sampler, seed=5, batch=2)
    expected = quantise(sample_range(load_denoiser(world.teachers[conditional]), sampler, 5, 3, 5))
    assert torch.equal(source.images(3, 5), expected)


def test_what_a_source_says_of_itself(generators: dict[str, Path], world: Any) -> None:
    source = open_source(generators["several"], seed=4)
    assert (source.kind, source.evaluations, source.count, source.shape) == ("generator", 3, None, (1, 8, 8))
    assert source.facts == {"seed": 4, "class": None, "classes": 0}
    assert (source.dataset, open_source(generators["plain"]).dataset) == (None, "blobs")
    teacher = open_source(world.teachers[False], sampler=STOCHASTIC)
    assert (teacher.kind, teacher.evaluations) == ("teacher", 3)
    assert teacher.facts["sampler"]["churn"] == 1.0
    assert teacher.sha256 != source.sha256


def test_one_class(generators: dict[str, Path]) -> None:
    drawn = open_source(generators["conditional"]).images(0, 12)
    each = [open_source(generators["conditional"], only_class=index).images(0, 12) for index in range(4)]
    of_a_class = torch.stack([(images == drawn).flatten(1).all(dim=1) for images in each])
    assert of_a_class.any(dim=0).all()
    assert not of_a_class.all(dim=1).any()


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
    found = open_source(tmp_path / "a.npz", evaluations=2)
    assert (found.kind, found.count, found.shape, found.evaluations) == ("images", 6, (3, 8, 8), 2)
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
        found = open_source(path)
        assert (found.count, found.shape) == (6, (3, 8, 8))
        assert np.array_equal(found.images(0, 6).numpy(), IMAGES)
        assert np.array_equal(found.images(3, 2).numpy(), IMAGES[3:5])
        digests.add(found.sha256)
    assert len(digests) == 3
    before = open_source(folder).sha256
    assert before in digests
    (folder / "0.png").write_bytes(png(IMAGES[1]))
    assert open_source(folder).sha256 != before


ARRAYS = {
    "holds float32 images from 0 to 1, but metrics are of bytes": {"images": IMAGES / np.float32(255)},
    r"holds uint8 \[6, 3, 8, 8\] instead of uint8 images": {"images": IMAGES.transpose(0, 3, 1, 2)},
    "holds int64": {"images": IMAGES.astype(np.int64)},
    r"\[0, 8, 8, 3\]": {"images": IMAGES[:0]},
    "holds no array called images or arr_0": {"pictures": IMAGES},
    "holds images with NaN": {"images": np.full((2, 4, 4, 3), np.nan)},
}


@pytest.mark.parametrize("message", ARRAYS)
def test_misuse_of_arrays(tmp_path: Path, message: str) -> None:
    np.savez(tmp_path / "a.npz", **ARRAYS[message])
    with pytest.raises(DivergedError if "NaN" in message else UserError, match=message) as error:
        open_source(tmp_path / "a.npz")
    assert "\n" not in str(error.value)


def test_misuse_of_folders(tmp_path: Path, folder: Path) -> None:
    found = open_source(folder)
    with pytest.raises(UserError, match="holds 6 images, but the 5 from 3 on are asked for"):
        found.images(3, 5)
    (folder / "1.png").write_bytes(png(IMAGES[1][:4, :4]))
    with pytest.raises(UserError, match=r"The image 1.png in .* is 4x4, not 8x8"):
        found.images(0, 3)
    (folder / "0.png").write_bytes(png(IMAGES[0][:4]))
    with pytest.raises(UserError, match="is 8x4; only square ones fit"):
        open_source(folder)
    (folder / "0.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"The image 0.png in .* cannot be read"):
        open_source(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        open_source(tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("conditional", {"only_class": 4}, "knows the classes 0 to 3, not 4"),
        ("plain", {"only_class": 0}, "is not class-conditional; leave out the class 0"),
        ("plain", {"sampler": STOCHASTIC}, "A sampler is for teachers"),
        ("missing.safetensors", {}, "do not exist"),
        ("teacher", {}, "holds a teacher; say how to sample it"),
        ("teacher", {"sampler": STOCHASTIC, "only_class": 1}, "holds a teacher, whose classes are drawn"),
        ("classifier", {}, r"holds (no network|a .*classifier)"),
        ("network.pkl", {}, "gdd import-teacher"),
        ("images.npz", {"only_class": 1}, "holds images, whose classes"),
        ("images.npz", {"sampler": STOCHASTIC}, "A sampler is for teachers"),
        ("page.npz", {}, r"cannot be read as an \.npz"),
        ("missing.npz", {}, "does not exist"),
        ("images.npy", {}, "bare array"),
    ],
)
def test_misuse(
    world: Any,
    generators: dict[str, Path],
    tmp_path: Path,
    name: str,
    options: dict[str, Any],
    message: str,
) -> None:
    np.savez(tmp_path / "images.npz", images=IMAGES)
    (tmp_path / "page.npz").write_text("<html>")
    known = {**generators, "teacher": world.teachers[False], "classifier": world.backbones["one"]}
    with pytest.raises(UserError, match=message) as error:
        open_source(known.get(name, tmp_path / name), **options)
    assert "\n" not in str(error.value)


def test_a_diverged_generator(generators: dict[str, Path]) -> None:
    with pytest.raises(DivergedError, match="NaN or infinity"):
        open_source(generators["broken"]).images(0, 2)
