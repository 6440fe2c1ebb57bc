from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gdd.config.recipe import Sampler
from gdd.data.quantise import quantise
from gdd.diffusion.sampling import sample_range
from gdd.distill.generate import generate
from gdd.errors import DivergedError, UserError
from gdd.metrics.sources import GeneratorSource, TeacherSource, open_source
from gdd.networks.checkpoint import load_denoiser, load_generator, one_step_from_denoiser, save_network
from gdd.networks.preconditioning import OneStepGenerator

STOCHASTIC = Sampler(steps=2, churn=1.0)


@pytest.fixture(scope="module")
def generators(world: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("generators")
    for name, conditional in (("plain", False), ("conditional", True)):
        save_network(
            folder / f"{name}.safetensors",
            one_step_from_denoiser(world.teachers[conditional]),
            dataset="blobs",
        )
    several = OneStepGenerator.from_denoiser(load_denoiser(world.teachers[False]), steps=3).eval()
    save_network(folder / "several.safetensors", several)
    broken = one_step_from_denoiser(world.teachers[False])
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    save_network(folder / "broken.safetensors", broken)
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["plain", "conditional", "several"])
def test_images_are_those_of_training_and_of_any_split(generators: dict[str, Path], name: str) -> None:
    source = open_source(generators[name], batch=3)
    assert isinstance(source, GeneratorSource)
    images = source.images(2, 8)
    assert (images.dtype, images.shape) == (torch.uint8, (8, 8, 8, 1))
    assert torch.equal(images, quantise(generate(load_generator(generators[name]), 2, 8)))
    assert torch.equal(images, open_source(generators[name], batch=100).images(2, 8))
    assert torch.equal(images, torch.cat([source.images(2, 1), source.images(3, 7)]))
    assert not torch.equal(images, open_source(generators[name], seed=1).images(2, 8))


def test_what_a_source_says_of_itself(generators: dict[str, Path], world: Any) -> None:
    source = open_source(generators["several"], seed=4)
    assert (source.kind, source.evaluations, source.count, source.shape) == ("generator", 3, None, (1, 8, 8))
    assert source.facts["seed"] == 4
    assert source.dataset is None
    assert open_source(generators["plain"]).dataset == "blobs"
    teacher = open_source(world.teachers[False], sampler=STOCHASTIC)
    assert (teacher.kind, teacher.evaluations) == ("teacher", 3)
    assert teacher.facts["sampler"]["churn"] == 1.0
    assert teacher.sha256 != source.sha256


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("sampler", [Sampler(steps=2), STOCHASTIC], ids=["Heun", "stochastic"])
def test_a_teachers_images(world: Any, conditional: bool, sampler: Sampler) -> None:
    source = open_source(world.teachers[conditional], sampler=sampler, seed=5, batch=2)
    assert isinstance(source, TeacherSource)
    expected = quantise(sample_range(load_denoiser(world.teachers[conditional]), sampler, 5, 3, 5))
    assert torch.equal(source.images(3, 5), expected)


def test_one_class(generators: dict[str, Path]) -> None:
    drawn = open_source(generators["conditional"]).images(0, 12)
    each = [open_source(generators["conditional"], only_class=index).images(0, 12) for index in range(4)]
    of_a_class = torch.stack([(images == drawn).flatten(1).all(dim=1) for images in each])
    assert of_a_class.any(dim=0).all()
    assert not of_a_class.all(dim=1).any()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("conditional", {"only_class": 4}, "knows the classes 0 to 3, not 4"),
        ("plain", {"only_class": 0}, "is not class-conditional; leave out the class 0"),
        ("plain", {"sampler": STOCHASTIC}, "A sampler is for teachers"),
        ("missing", {}, "do not exist"),
    ],
)
def test_misuse_of_generators(
    generators: dict[str, Path], tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        open_source(generators.get(name, tmp_path / "missing.safetensors"), **options)


def test_misuse_of_others(world: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds a teacher; say how to sample it"):
        open_source(world.teachers[False])
    with pytest.raises(UserError, match="holds a teacher, whose classes are drawn"):
        open_source(world.teachers[False], sampler=STOCHASTIC, only_class=1)
    with pytest.raises(UserError, match="gdd import-teacher"):
        open_source(tmp_path / "network.pkl")
    np.savez(tmp_path / "images.npz", images=np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(UserError, match="holds images, whose classes"):
        open_source(tmp_path / "images.npz", only_class=1)
    with pytest.raises(UserError, match=r"holds (no network|a .*classifier)"):
        open_source(world.backbones["one"])


def test_a_diverged_generator_and_one_without_its_labels(generators: dict[str, Path]) -> None:
    with pytest.raises(DivergedError, match="NaN or infinity"):
        open_source(generators["broken"]).images(0, 2)
    # Labels are always drawn here; the network itself refuses to go without.
    with pytest.raises(ValueError, match="class_labels"):
        load_generator(generators["conditional"])(torch.zeros(2, 1, 8, 8))
