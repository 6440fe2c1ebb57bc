"""Whole runs: interrupted and resumed, what they leave, and what they refuse."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gdd.distill.distances import squared_error
from gdd.distill.distill import distill, prepare
from gdd.distill.generate import generate
from gdd.distill.student import Student
from gdd.errors import Stopped, UserError
from gdd.files import sha256
from gdd.networks.checkpoint import load_denoiser, load_generator
from gdd.networks.preconditioning import OneStepGenerator, TwoTimeGenerator

pytestmark = pytest.mark.slow

SEED = 1
DIRECT = {"instance": "direct", "pairs": 10}
TIMING = {"images_per_second", "seconds", "peak_memory_mib"}
CONDITIONAL = ("conditional", "trajectory")
TWO_TIMES = ("progressive", "trajectory", "reverse")
RECIPES: dict[str, dict[str, Any]] = {
    "gdd": {},
    "gdd-i": {"freeze": "conv", "reuse_fakes": True},
    "two steps": {"generator_steps": 2},
    "direct": {"objective": DIRECT, "adam": {"beta1": 0.9}},
    "consistency": {"objective": {"instance": "consistency", "grid": 4}},
    "both": {
        "objective": {"distributional": "hinge", "instance": "direct"},
        "backbones": ["teacher-encoder"],
        "reuse_fakes": True,
    },
    "conditional": {"precision": "bfloat16", "init": "random"},
    "progressive": {
        "objective": {"instance": "progressive", "grid": 4},
        "init": "random",
        "generator_steps": 2,
    },
    "trajectory": {
        "objective": {"distributional": "softplus", "instance": "consistency-trajectory", "grid": 5},
        "freeze": "conv",
        "precision": "bfloat16",
    },
    "reverse": {"objective": {"instance": "reverse-consistency", "grid": 5}},
    "ADA": {"augment": {"kind": "ada", "target": -0.9, "speed_kimg": 0.01}, "images": 48},
}

Published = Callable[[Path], dict[str, bytes]]
Logged = Callable[[Path], list[dict[str, Any]]]


def train(toy: Any, folder: Path, name: str) -> None:
    distill(folder, toy.recipe(**RECIPES[name]), SEED, toy.inputs(name in CONDITIONAL), checkpoint_every=16)


@pytest.fixture(scope="session")
def uninterrupted(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("runs") / "tiny" / "run" / "seed1"
            train(toy, folders[name], name)
        return folders[name]

    return run


@pytest.mark.parametrize(
    ("name", "after", "how"),
    [
        ("gdd", 3, "crash"),  # after R1, which comes again
        ("gdd-i", 3, "SIGTERM"),  # right after R1
        ("consistency", 2, "crash"),
        ("both", 2, "SIGUSR2"),  # right before R1
        ("conditional", 1, "crash"),  # before there is a checkpoint
        ("progressive", 2, "crash"),
        ("trajectory", 3, "crash"),
        ("reverse", 3, "crash"),
        ("ADA", 5, "crash"),  # after p has changed
    ],
)
def test_resuming_changes_no_bit(
    toy: Any,
    tmp_path: Path,
    uninterrupted: Callable[[str], Path],
    interrupt: Callable[..., None],
    published: Published,
    logged: Logged,
    name: str,
    after: int,
    how: str,
) -> None:
    expected = uninterrupted(name)
    folder = tmp_path / "tiny" / "run" / "seed1"
    interrupt(Student, after, how)
    with pytest.raises(Exception) as error:
        train(toy, folder, name)
    assert error.type.__name__ == ("Crash" if how == "crash" else Stopped.__name__)
    assert not any((folder / part).exists() for part in ("run.json", "snapshots", "samples", "log.jsonl"))
    torch.manual_seed(after)  # whatever else the next process does
    train(toy, folder, name)

    assert published(folder) == published(expected)
    lines, before = (
        [{key: value for key, value in line.items() if key not in TIMING} for line in logged(of)]
        for of in (folder, expected)
    )
    assert lines == before
    assert lines[-1].get("augment_p", 1) > 0
    facts = json.loads((folder / "run.json").read_text())
    assert len(facts["sessions"]) == 2
    assert facts["snapshots"] == json.loads((expected / "run.json").read_text())["snapshots"]


@pytest.mark.parametrize("name", RECIPES)
def test_the_student_that_a_run_leaves(
    toy: Any, uninterrupted: Callable[[str], Path], logged: Logged, name: str
) -> None:
    """What is frozen is the teacher's to the bit, all else has moved, and it generates."""
    folder, recipe = uninterrupted(name), toy.recipe(**RECIPES[name])
    student = load_generator(folder / "snapshots" / f"{recipe.images:09d}.safetensors")
    assert type(student) is (TwoTimeGenerator if name in TWO_TIMES else OneStepGenerator)
    assert student.steps == recipe.generator_steps
    facts = json.loads((folder / "run.json").read_text())
    assert bool(facts["frozen"]) == (recipe.freeze != "none")
    if recipe.init == "teacher":
        before = OneStepGenerator.from_denoiser(load_denoiser(toy.teachers[name in CONDITIONAL]))
        same = {key for key, old in before.named_parameters() if torch.equal(old, student.state_dict()[key])}
        assert same == set(facts["frozen"])
    sizes = {key: parameter.numel() for key, parameter in student.named_parameters()}
    total, frozen = sum(sizes.values()), sum(sizes[key] for key in facts["frozen"])
    assert facts["parameters"] == {"total": total, "trainable": total - frozen, "frozen": frozen}
    losses = {key for key in logged(folder)[0] if key.startswith("loss")}
    adversarial = {"loss_generator", "loss_discriminator"} if recipe.objective.distributional else set()
    assert losses == adversarial | ({"loss_instance"} if recipe.objective.instance else set())
    assert all(math.isfinite(line[key]) for line in logged(folder) for key in losses)
    images = generate(student, 0, 5)
    assert images.shape == (5, 1, 8, 8)
    assert images.isfinite().all()
    torch.testing.assert_close(generate(student, 3, 2), images[3:])


def test_seeds_fresh_fakes_and_mirrors_matter(toy: Any, tmp_path: Path) -> None:
    losses = set()
    for seed, changes in ((1, {}), (2, {}), (1, {"reuse_fakes": True}), (1, {"flip": True})):
        student = prepare(toy.recipe(**changes), seed, toy.inputs(), toy.data, tmp_path)
        losses.add(student.step()["loss_discriminator"])
    assert len(losses) == 4


def test_what_a_run_leaves(toy: Any, uninterrupted: Callable[[str], Path]) -> None:
    folder = uninterrupted("gdd")
    names = ["lock", "log.jsonl", "run.json", "samples", "snapshots", "state"]
    assert sorted(path.name for path in folder.iterdir()) == names
    for part in ("snapshots", "samples"):
        assert sorted(path.stem for path in (folder / part).iterdir()) == ["000000016", "000000032"]
    assert list((folder / "state" / "checkpoints").iterdir()) == []
    facts = json.loads((folder / "run.json").read_text())
    inputs, recipe = toy.inputs(), toy.recipe()
    assert facts["recipe"] == recipe.model_dump(mode="json")
    assert facts["recipe_hash"] == recipe.fingerprint()
    assert (facts["seed"], facts["images"], facts["images_at_once"]) == (SEED, 32, 4)
    assert facts["inputs"] == {
        "data": toy.data.sha256,
        "teacher": sha256(inputs.teacher),
        "pairs": sha256(inputs.pairs),
        **{f"backbone {name}": sha256(path) for name, path in inputs.backbones.items()},
    }
    snapshots = (folder / "snapshots").iterdir()
    assert facts["snapshots"] == {path.stem: sha256(path) for path in sorted(snapshots)}
    assert facts["seconds"] > 0
    assert facts["sessions"][0].keys() >= {"revision", "torch", "device", "threads"}
    assert json.loads((folder / "state" / "progress.json").read_text())["name"] == "tiny/run/seed1"


def test_a_list_of_starts_that_is_none(toy: Any, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "sessions.json").write_text("{}")
    with pytest.raises(UserError, match=r"sessions\.json holds a dict instead of a list; delete it"):
        distill(tmp_path, toy.recipe(), SEED, toy.inputs())


def test_a_finished_run_is_published_again_without_training(
    toy: Any,
    tmp_path: Path,
    uninterrupted: Callable[[str], Path],
    interrupt: Callable[..., None],
    published: Published,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted("gdd"), folder)
    shutil.rmtree(folder / "snapshots")
    (folder / "run.json").unlink()
    (folder / "samples" / "000000016.npz").unlink()
    interrupt(Student, 0, "crash")
    train(toy, folder, "gdd")
    assert published(folder) == published(uninterrupted("gdd"))
    assert (folder / "run.json").exists()


@pytest.mark.parametrize("changed", ["recipe", "seed", "teacher", "backbone"])
def test_another_recipe_seed_or_input_starts_anew(
    toy: Any,
    tmp_path: Path,
    uninterrupted: Callable[[str], Path],
    interrupt: Callable[..., None],
    changed: str,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted("gdd"), folder)
    inputs = toy.inputs()
    if changed == "teacher":
        other = tmp_path / "teacher.safetensors"
        content = bytearray(inputs.teacher.read_bytes())
        content[-1] ^= 1
        other.write_bytes(content)
        inputs = replace(inputs, teacher=other)
    if changed == "backbone":
        inputs = replace(inputs, backbones={"one": inputs.backbones["two"], "two": inputs.backbones["one"]})
    recipe = toy.recipe(reuse_fakes=changed == "recipe")
    interrupt(Student, 0, "crash")
    with pytest.raises(Exception) as error:
        distill(folder, recipe, SEED + 1 if changed == "seed" else SEED, inputs)
    assert error.type.__name__ == "Crash"
    (aside,) = folder.glob("state.*")
    assert (aside / "finished.json").exists()


def test_lpips_takes_its_file(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = tmp_path / "vgg16.pth"
    trunk.write_bytes(b"weights")
    read: list[Path] = []
    monkeypatch.setattr("gdd.distill.instance.load_lpips", lambda path: read.append(path) or squared_error)
    recipe = toy.recipe(objective=DIRECT | {"distance": "lpips"}, images=8, snapshot_every=8)
    distill(tmp_path / "run", recipe, SEED, replace(toy.inputs(), lpips=trunk))
    assert read == [trunk]
    assert "VGG of LPIPS" in json.loads((tmp_path / "run" / "run.json").read_text())["inputs"]


NOWHERE = Path("no/file")


@pytest.mark.parametrize(
    ("recipe", "inputs", "sentence"),
    [
        ({}, {"teacher": NOWHERE}, "The teacher no/file does not exist; make it first or correct the path."),
        ({}, {"backbones": {"one": NOWHERE}}, "The backbone one no/file does not exist"),
        ({}, {"lpips": NOWHERE}, "The VGG of LPIPS no/file does not exist"),
        ({"freeze": ["*no-such-layer*"]}, {}, "matches no parameter"),
        ({"freeze": ["*"]}, {}, "leaves nothing to train"),
    ],
)
def test_bad_input_is_one_sentence(
    toy: Any, tmp_path: Path, recipe: dict[str, Any], inputs: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError) as error:
        distill(tmp_path / "run", toy.recipe(**recipe), SEED, replace(toy.inputs(), **inputs))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_teacher_of_other_images_is_refused(toy: Any, tmp_path: Path) -> None:
    data = replace(toy.data, images=toy.data.images[:, :4, :4])
    sentence = "makes 1-channel images of 8 pixels, the data set 'blobs' holds 1 of 4"
    with pytest.raises(UserError, match=sentence):
        prepare(toy.recipe(), SEED, toy.inputs(), data, tmp_path)
