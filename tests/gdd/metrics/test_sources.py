"""Images of generators, teachers and files by their indices, and images written to files."""

from __future__ import annotations

import io
import os
import tarfile
import threading
import zipfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gdd import files as module_of_files
from gdd.config.recipe import Sampler
from gdd.data.image_array import quantise
from gdd.diffusion.sampler import sample_range
from gdd.distill.generate import generate
from gdd.errors import DivergedError, UserError
from gdd.metrics.export import export
from gdd.metrics.reference import load_reference
from gdd.metrics.sources import Source, in_turn, open_source
from gdd.networks.checkpoint import load_denoiser, load_generator, save_network
from gdd.networks.preconditioning import OneStepGenerator

STOCHASTIC = Sampler(steps=2, churn=1.0)
IMAGES = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def generators(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    plain, conditional, broken = (
        OneStepGenerator.from_denoiser(load_denoiser(toy.teachers[conditional]))
        for conditional in (False, True, False)
    )
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    several = OneStepGenerator.from_denoiser(load_denoiser(toy.teachers[False]), steps=3).eval()
    folder = tmp_path_factory.mktemp("generators")
    networks = {"plain": plain, "conditional": conditional, "several": several, "broken": broken}
    for name, network in networks.items():
        described = {"dataset": "blobs"} if name == "plain" else {}
        save_network(folder / f"{name}.safetensors", network, **described)
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["plain", "conditional", "several"])
def test_images_are_those_of_training_and_of_any_split(generators: dict[str, Path], name: str) -> None:
    source = open_source(generators[name])
    images = source.images(2, 8)
    assert (images.dtype, images.shape) == (torch.uint8, (8, 8, 8, 1))
    assert torch.equal(images, quantise(generate(load_generator(generators[name]), 2, 8)))
    assert torch.equal(images, torch.cat([source.images(2, 1), source.images(3, 7)]))
    assert not torch.equal(images, open_source(generators[name], seed=1).images(2, 8))


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A GPU that is none: what only one can do is left out."""
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    return torch.device("cuda")


def test_on_a_gpu_the_next_images_are_made_before_these_have_been_used(
    generators: dict[str, Path], pretended: torch.device
) -> None:
    source, batches = open_source(generators["plain"]), [(0, 3), (3, 3), (6, 2)]
    begun = {first: threading.Event() for first, _ in batches}

    def images(start: int, count: int) -> torch.Tensor:
        begun[start].set()
        return source.images(start, count)

    found = []
    for one in in_turn(replace(source, images=images), batches, pretended):
        assert begun[min(3 * len(found) + 3, 6)].wait(10)
        assert found or not begun[6].is_set()  # one batch ahead, and no more
        found.append(one)
    expected = list(in_turn(source, batches, torch.device("cpu")))
    assert [len(one) for one in found] == [3, 3, 2]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_what_goes_wrong_ahead_is_raised_in_its_turn(
    generators: dict[str, Path], pretended: torch.device
) -> None:
    source = open_source(generators["plain"])

    def images(start: int, count: int) -> torch.Tensor:
        if start:
            raise DivergedError("of the second batch")
        return source.images(start, count)

    made = in_turn(replace(source, images=images), [(0, 3), (3, 3)], pretended)
    assert len(next(made)) == 3
    with pytest.raises(DivergedError, match="of the second batch"):
        next(made)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("sampler", [Sampler(steps=2), STOCHASTIC], ids=["Heun", "stochastic"])
def test_a_teachers_images(toy: Any, conditional: bool, sampler: Sampler) -> None:
    source = open_source(toy.teachers[conditional], sampler=sampler, seed=5)
    expected = quantise(sample_range(load_denoiser(toy.teachers[conditional]), sampler, 5, 3, 5))
    assert torch.equal(torch.cat([source.images(3, 2), source.images(5, 3)]), expected)


def test_what_a_source_says_of_itself(generators: dict[str, Path], toy: Any) -> None:
    source = open_source(generators["several"], seed=4)
    assert (source.kind, source.evaluations, source.count, source.shape) == ("generator", 3, None, (1, 8, 8))
    assert source.facts == {"seed": 4, "class": None}
    assert (source.dataset, open_source(generators["plain"]).dataset) == (None, "blobs")
    teacher = open_source(toy.teachers[False], sampler=STOCHASTIC)
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


@pytest.fixture
def arrays(tmp_path: Path) -> Source:
    np.savez(tmp_path / "a.npz", images=IMAGES)
    return open_source(tmp_path / "a.npz")


@pytest.mark.parametrize("key", ["images", "arr_0", "samples"])
def test_arrays(tmp_path: Path, key: str) -> None:
    np.savez(tmp_path / "a.npz", **{key: IMAGES, "arr_1": np.arange(6)})
    found = open_source(tmp_path / "a.npz", evaluations=2)
    assert (found.kind, found.count, found.shape, found.evaluations) == ("images", 7, (3, 8, 8), 2)
    assert torch.equal(found.images(1, 4), torch.from_numpy(IMAGES[1:5]))


def test_folders_and_archives_give_the_same_images_in_the_order_of_names(
    tmp_path: Path, folder: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in sorted(folder.rglob("*.png"), reverse=True):
            archive.write(file, file.relative_to(folder))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(folder, ".")
    for path in (folder, tmp_path / "a.zip", tmp_path / "a.tar"):
        found = open_source(path)
        assert (found.count, found.shape) == (7, (3, 8, 8))
        assert np.array_equal(found.images(0, 7).numpy(), IMAGES)
        assert np.array_equal(found.images(3, 2).numpy(), IMAGES[3:5])
    before = open_source(folder).sha256
    (folder / "0.png").write_bytes(png(IMAGES[1]))
    assert open_source(folder).sha256 != before


ARRAYS = {
    r"holds float32 \[7, 8, 8, 3\] instead of uint8 images": {"images": IMAGES / np.float32(255)},
    r"holds uint8 \[7, 3, 8, 8\] instead of uint8 images": {"images": IMAGES.transpose(0, 3, 1, 2)},
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


def huge(path: Path) -> None:
    header = (
        b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }" % 2**62
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header.ljust(127) + b"\n")


def encrypted(path: Path) -> None:
    np.savez(path, images=IMAGES)
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)


def bomb(path: Path) -> None:
    np.savez_compressed(path, images=np.zeros((2000, 16, 16, 3), np.uint8))


@pytest.mark.parametrize("make", [huge, encrypted, bomb, os.mkfifo])
def test_arrays_that_want_all_memory_or_time(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_of_files, "SMALL", 100_000)
    make(tmp_path / "a.npz")
    with pytest.raises(
        UserError, match=r"a.npz (cannot be read as an .npz of images|does not exist)"
    ) as error:
        open_source(tmp_path / "a.npz")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"a.npz (holds neither a reference|does not exist)"):
        load_reference(tmp_path / "a.npz")


def test_misuse_of_folders(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="holds 7 images, not 8; ask for fewer"):
        open_source(folder).images(3, 5)
    os.mkfifo(folder / "x.png")
    with pytest.raises(UserError, match=r"The image x.png in .* is no regular file"):
        open_source(folder)
    (folder / "x.png").unlink()
    (folder / "1.png").write_bytes(png(IMAGES[1][:4]))
    with pytest.raises(UserError, match=r"The image 1.png in .* is 8x4, not 8x8"):
        open_source(folder).images(0, 3)
    (folder / "0.png").write_bytes(png(IMAGES[1][:4]))
    with pytest.raises(UserError, match=r"The image 0.png in .* cannot be read \(is 8x4, no square\)"):
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
        ("conditional", {"only_class": 4}, "has 4 classes, counted from 0, and no class 4"),
        ("plain", {"only_class": 0}, "has 0 classes, .* and no class 0"),
        ("plain", {"sampler": STOCHASTIC}, "A sampler is for teachers"),
        ("missing.safetensors", {}, "do not exist"),
        ("teacher", {}, "holds a teacher; say how to sample it"),
        ("teacher", {"sampler": STOCHASTIC, "only_class": 1}, "Only a generator's class can be chosen"),
        ("classifier", {}, r"holds (no network|a .*classifier)"),
        ("network.pkl", {}, "gdd import-teacher"),
        ("a.npz", {"only_class": 1}, "Only a generator's class can be chosen"),
        ("page.npz", {}, r"cannot be read as an \.npz"),
        ("missing.npz", {}, "does not exist"),
    ],
)
@pytest.mark.usefixtures("arrays")
def test_misuse(
    toy: Any, generators: dict[str, Path], tmp_path: Path, name: str, options: Any, message: str
) -> None:
    (tmp_path / "page.npz").write_text("<html>")
    known = {**generators, "teacher": toy.teachers[False], "classifier": toy.backbones["one"]}
    with pytest.raises(UserError, match=message) as error:
        open_source(known.get(name, tmp_path / name), **options)
    assert "\n" not in str(error.value)


def test_a_diverged_generator(generators: dict[str, Path]) -> None:
    with pytest.raises(DivergedError, match="NaN or infinity"):
        open_source(generators["broken"]).images(0, 2)


def test_images_go_to_an_array_or_a_folder_and_come_back(tmp_path: Path, arrays: Source) -> None:
    export(arrays, tmp_path / "out.npz", start=2, count=4)
    assert np.array_equal(np.load(tmp_path / "out.npz")["images"], IMAGES[2:6])
    (tmp_path / "out").mkdir()  # empty
    export(arrays, tmp_path / "out", start=1, count=6)
    assert np.array_equal(open_source(tmp_path / "out").images(0, 6).numpy(), IMAGES[1:])
    assert (tmp_path / "out" / "00000000" / "00000001.png").is_file()


def test_images_go_to_a_grid(tmp_path: Path, arrays: Source) -> None:
    export(arrays, tmp_path / "out.png", start=0, count=7)
    picture = np.asarray(Image.open(tmp_path / "out.png"))
    assert picture.shape == (24, 24, 3)
    assert np.array_equal(picture[8:16, 8:16], IMAGES[4])
    assert not picture[16:, 8:].any()
    np.savez(tmp_path / "grey.npz", images=IMAGES[:2, :, :, :1])
    export(open_source(tmp_path / "grey.npz"), tmp_path / "grey.png", start=0, count=2)
    assert np.asarray(Image.open(tmp_path / "grey.png")).shape == (8, 16)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("out.jpg", r"should end in \.npz"),
        ("full", "holds something already"),
        ("out.npz", "holds 7 images, not 8"),
    ],
)
def test_misuse_of_export(tmp_path: Path, arrays: Source, out: str, message: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match=message):
        export(arrays, tmp_path / out, start=0, count=8)
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize("case", ["encrypted", "huge", "a folder"])
def test_a_wrong_npz_is_one_sentence(tmp_path: Path, case: str) -> None:
    path = tmp_path / "x.npz"
    if case == "a folder":
        path.mkdir()
    else:
        header = io.BytesIO()
        shape = (2**44, 8, 8, 3) if case == "huge" else (1, 8, 8, 3)
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("images.npy", header.getvalue() + bytes(192))
        if case == "encrypted":
            content = bytearray(path.read_bytes())
            content[6] |= 1  # bit 0 of the flags: in the member's header and in the directory
            content[content.index(b"PK\1\2") + 8] |= 1
            path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npz cannot be read as an \.npz of images"):
        open_source(path)
