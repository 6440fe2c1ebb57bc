"""Runs with every instance-based objective: they train, and leave students that work."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gdd.distill.distances import squared_error
from gdd.distill.distill import distill
from gdd.distill.generate import generate
from gdd.distill.student import Student
from gdd.errors import UserError
from gdd.networks.checkpoint import load_denoiser, load_generator
from gdd.networks.preconditioning import OneStepGenerator
from gdd.networks.two_time import TwoTimeGenerator
from gdd.networks.weights import load_weights

pytestmark = pytest.mark.slow

SEED = 1
GRIDS = {"progressive": 8, "consistency-trajectory": 5, "reverse-consistency": 5}
SHORT = {"images": 16, "snapshot_every": 16}
LAST = "snapshots/000000016.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize("instance", GRIDS)
@pytest.mark.parametrize("distributional", [None, "softplus"], ids=["alone", "with-gan"])
def test_two_time_students_train(
    world: Any,
    tmp_path: Path,
    logged: Callable[[Path], list[dict[str, Any]]],
    instance: str,
    distributional: str | None,
) -> None:
    objective = {"instance": instance, "grid": GRIDS[instance], "distributional": distributional}
    conditional = distributional is not None
    recipe = world.recipe(objective=objective, freeze="conv", precision="bfloat16", **SHORT)
    distill(tmp_path, recipe, SEED, world.inputs(conditional))
    lines = logged(tmp_path)
    assert all(0 < line["loss_instance"] < math.inf for line in lines)
    assert all(("loss_generator" in line) == conditional for line in lines)
    student = load_generator(tmp_path / LAST)
    assert isinstance(student, TwoTimeGenerator)
    assert all(tensor.isfinite().all() for tensor in student.state_dict().values())
    assert student.model.map_target.layer1.weight.abs().max() > 0
    # What the policy names is the teacher's still.
    teacher = load_denoiser(world.teachers[conditional]).state_dict()
    frozen = json.loads((tmp_path / "run.json").read_text())["frozen"]
    assert frozen
    assert all(torch.equal(student.state_dict()[name], teacher[name]) for name in frozen)
    assert generate(student, 0, 3).shape == (3, 1, 8, 8)


@pytest.mark.slow
def test_a_two_time_run_resumes_to_the_bit(
    world: Any,
    tmp_path: Path,
    interrupt: Callable[..., None],
    published: Callable[[Path], dict[str, bytes]],
) -> None:
    recipe = world.recipe(objective={"instance": "progressive", "grid": 4}, init="random", generator_steps=2)
    distill(tmp_path / "whole", recipe, SEED, world.inputs(), checkpoint_every=8)
    interrupt(Student, 2, "crash")
    with pytest.raises(Exception) as error:
        distill(tmp_path / "parts", recipe, SEED, world.inputs(), checkpoint_every=8)
    assert error.type.__name__ == "Crash"
    distill(tmp_path / "parts", recipe, SEED, world.inputs(), checkpoint_every=8)
    assert published(tmp_path / "parts") == published(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("steps", [2, 3])
def test_a_generator_of_several_steps_trains_against_the_discriminator(
    world: Any, tmp_path: Path, steps: int
) -> None:
    distill(tmp_path, world.recipe(generator_steps=steps, **SHORT), SEED, world.inputs())
    student = load_generator(tmp_path / LAST)
    assert (type(student), student.steps) == (OneStepGenerator, steps)
    assert load_weights(tmp_path / LAST)[1]["steps"] == steps
    images = generate(student, 0, 5)
    assert images.shape == (5, 1, 8, 8)
    assert images.isfinite().all()
    torch.testing.assert_close(generate(student, 3, 2), images[3:])


def test_lpips_takes_its_file(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = tmp_path / "vgg16.pth"
    trunk.write_bytes(b"weights")
    asked: list[Path] = []

    def lpips(path: Path) -> Any:
        asked.append(path)
        return squared_error

    monkeypatch.setattr("gdd.distill.instance.Lpips", lpips)
    recipe = world.recipe(objective={"instance": "direct", "pairs": 10, "distance": "lpips"}, **SHORT)
    distill(tmp_path / "run", recipe, SEED, replace(world.inputs(), lpips=trunk))
    assert asked == [trunk]
    assert "VGG of LPIPS" in json.loads((tmp_path / "run" / "run.json").read_text())["inputs"]


@pytest.mark.parametrize(
    ("lpips", "sentence"),
    [
        (
            None,
            "The recipe measures with LPIPS; get its VGG with 'gdd fetch lpips-vgg16' and pass the file as",
        ),
        (Path("no/vgg16.pth"), "The VGG of LPIPS no/vgg16.pth does not exist"),
    ],
)
def test_lpips_without_its_file_is_one_sentence(
    world: Any, tmp_path: Path, lpips: Path | None, sentence: str
) -> None:
    recipe = world.recipe(objective={"instance": "consistency", "distance": "lpips"})
    with pytest.raises(UserError) as error:
        distill(tmp_path / "run", recipe, SEED, replace(world.inputs(), lpips=lpips))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
