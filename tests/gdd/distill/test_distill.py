from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gdd.distill.distill import distill, prepare
from gdd.distill.student import Student
from gdd.errors import UserError
from gdd.files import sha256
from gdd.networks.checkpoint import load_denoiser, load_generator
from gdd.networks.preconditioning import OneStepGenerator
from gdd.networks.weights import load_weights
from gdd.training.stop import Stopped

pytestmark = pytest.mark.slow

SEED = 1
DIRECT = {"instance": "direct", "pairs": 10}
RECIPES: dict[str, dict[str, Any]] = {
    "gdd": {},
    "gdd-i": {"freeze": "conv", "reuse_fakes": True},
    "direct": {"objective": DIRECT, "adam": {"beta1": 0.9}},
    "consistency": {"objective": {"instance": "consistency", "grid": 4}},
    "both": {
        "objective": {"distributional": "hinge", "instance": "direct"},
        "backbones": ["teacher-encoder"],
        "reuse_fakes": True,
    },
    "conditional": {"precision": "bfloat16", "init": "random"},
}


def train(world: Any, folder: Path, name: str, **changes: Any) -> None:
    recipe = world.recipe(**(RECIPES[name] | changes))
    distill(folder, recipe, SEED, world.inputs(name == "conditional"), checkpoint_every=16)


@pytest.fixture(scope="session")
def uninterrupted(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("runs") / "tiny" / "run" / "seed1"
            train(world, folders[name], name)
        return folders[name]

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "after", "how"),
    [
        ("gdd", 3, "crash"),  # after R1, which comes again
        ("gdd", 2, "file"),  # right before R1
        ("gdd-i", 3, "SIGTERM"),  # right after R1
        ("direct", 3, "crash"),
        ("consistency", 2, "crash"),
        ("both", 1, "SIGUSR2"),
        ("conditional", 1, "crash"),  # before there is a checkpoint
    ],
)
def test_resuming_changes_no_bit(
    world: Any,
    tmp_path: Path,
    uninterrupted: Callable[[str], Path],
    interrupt: Callable[..., None],
    published: Callable[[Path], dict[str, bytes]],
    logged: Callable[[Path], list[dict[str, Any]]],
    name: str,
    after: int,
    how: str,
) -> None:
    expected = uninterrupted(name)
    folder = tmp_path / "tiny" / "run" / "seed1"
    interrupt(Student, after, how)
    with pytest.raises(Exception) as error:
        train(world, folder, name)
    assert error.type.__name__ == ("Crash" if how == "crash" else Stopped.__name__)
    assert not any((folder / part).exists() for part in ("run.json", "snapshots", "samples", "log.jsonl"))
    torch.manual_seed(after)  # whatever else the next process does
    train(world, folder, name)

    files = published(folder)
    assert len(files) == 4
    assert files == published(expected)
    lines = logged(folder)
    assert [line["images"] for line in lines] == [8, 16, 24, 32]
    timing = {"images_per_second", "seconds", "peak_memory_mib"}
    for line, before in zip(lines, logged(expected), strict=True):
        assert {key: line[key] for key in line.keys() - timing} == {
            key: before[key] for key in before.keys() - timing
        }
    assert len(json.loads((folder / "run.json").read_text())["sessions"]) == 2


def test_seeds_and_fresh_fakes_matter(
    world: Any, tmp_path: Path, published: Callable[[Path], dict[str, bytes]]
) -> None:
    short = {"images": 16, "snapshot_every": 16}
    for name, seed, reuse in (("a", 1, False), ("b", 2, False), ("c", 1, True)):
        distill(tmp_path / name, world.recipe(reuse_fakes=reuse, **short), seed, world.inputs())
    last = "snapshots/000000016.safetensors"
    assert len({published(tmp_path / name)[last] for name in "abc"}) == 3


@pytest.mark.parametrize("policy", ["none", "conv", "conv+qkv", "conv+qkv+skip", "norms-only"])
def test_frozen_parameters_stay_to_the_bit_in_the_network_itself(
    world: Any, tmp_path: Path, policy: str
) -> None:
    """The snapshots hold the average, which never touches a frozen weight; so look at what is trained."""
    recipe = world.recipe(freeze=policy)
    before = dict(OneStepGenerator.from_denoiser(load_denoiser(world.teachers[False])).named_parameters())
    student, frozen = prepare(recipe, SEED, world.inputs(), world.data, tmp_path)
    while student.images < recipe.images:
        student.step()
    after = dict(student.generator.named_parameters())
    changed = {name for name, old in before.items() if not torch.equal(old, after[name])}
    assert changed == set(before) - set(frozen)
    assert bool(frozen) == (policy != "none")


@pytest.mark.parametrize("name", ["gdd", "gdd-i"])
def test_frozen_parameters_stay_to_the_bit_and_all_others_change(
    world: Any, uninterrupted: Callable[[str], Path], name: str
) -> None:
    folder = uninterrupted(name)
    before = OneStepGenerator.from_denoiser(load_denoiser(world.teachers[False]))
    after = load_generator(folder / "snapshots" / "000000032.safetensors")
    changed = {
        key
        for (key, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    facts = json.loads((folder / "run.json").read_text())
    assert changed == {key for key, _ in before.named_parameters()} - set(facts["frozen"])
    sizes = {key: parameter.numel() for key, parameter in before.named_parameters()}
    frozen = sum(sizes[key] for key in facts["frozen"])
    assert facts["parameters"] == {
        "total": sum(sizes.values()),
        "trainable": sum(sizes.values()) - frozen,
        "frozen": frozen,
    }
    assert bool(frozen) == (name == "gdd-i")


def test_every_entry_of_a_trained_parameter_can_change(
    world: Any, uninterrupted: Callable[[str], Path]
) -> None:
    """Adam moves each entry by about the learning rate, so none should stand still by accident."""
    before = OneStepGenerator.from_denoiser(load_denoiser(world.teachers[False])).state_dict()
    after = load_generator(uninterrupted("gdd") / "snapshots" / "000000032.safetensors").state_dict()
    moved = torch.cat([(after[key] - before[key]).abs().flatten() for key in before])
    assert (moved > 0).double().mean() > 0.99
    assert moved.max() < 4 * 1e-3 * 10  # four steps; beta2 = 0.99 bounds a step by ten learning rates


def test_what_a_run_leaves(world: Any, uninterrupted: Callable[[str], Path]) -> None:
    folder = uninterrupted("gdd")
    assert sorted(path.name for path in folder.iterdir()) == [
        "lock",
        "log.jsonl",
        "run.json",
        "samples",
        "snapshots",
        "state",
    ]
    names = ["000000016", "000000032"]
    assert sorted(path.stem for path in (folder / "snapshots").iterdir()) == names
    assert sorted(path.stem for path in (folder / "samples").iterdir()) == names
    assert list((folder / "state" / "checkpoints").iterdir()) == []
    facts = json.loads((folder / "run.json").read_text())
    inputs = world.inputs()
    recipe = world.recipe()
    assert facts["recipe"] == recipe.model_dump(mode="json")
    assert facts["recipe_hash"] == recipe.fingerprint()
    assert (facts["seed"], facts["images"]) == (SEED, 32)
    assert facts["inputs"] == {
        "data": world.data.sha256,
        "teacher": sha256(inputs.teacher),
        "pairs": sha256(inputs.pairs),
        **{f"backbone {name}": sha256(path) for name, path in inputs.backbones.items()},
    }
    _, description = load_weights(folder / "snapshots" / f"{names[0]}.safetensors")
    assert description["dataset"] == recipe.dataset
    assert facts["seconds"] > 0
    assert facts["sessions"][0].keys() >= {"revision", "torch", "device", "threads"}
    assert json.loads((folder / "state" / "progress.json").read_text())["name"] == "tiny/run/seed1"


def test_a_finished_run_is_published_again_without_training(
    world: Any,
    tmp_path: Path,
    uninterrupted: Callable[[str], Path],
    interrupt: Callable[..., None],
    published: Callable[[Path], dict[str, bytes]],
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted("gdd"), folder)
    shutil.rmtree(folder / "snapshots")
    (folder / "run.json").unlink()
    (folder / "samples" / "000000016.npz").unlink()
    interrupt(Student, 0, "crash")
    for _ in range(2):
        train(world, folder, "gdd")
        assert published(folder) == published(uninterrupted("gdd"))
        assert (folder / "run.json").exists()


@pytest.mark.parametrize("changed", ["recipe", "seed", "teacher", "backbone"])
def test_another_recipe_seed_or_input_starts_anew(
    world: Any,
    tmp_path: Path,
    uninterrupted: Callable[[str], Path],
    interrupt: Callable[..., None],
    changed: str,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted("gdd"), folder)
    inputs = world.inputs()
    if changed == "teacher":
        other = tmp_path / "teacher.safetensors"
        content = bytearray(inputs.teacher.read_bytes())
        content[-1] ^= 1
        other.write_bytes(content)
        inputs = replace(inputs, teacher=other)
    if changed == "backbone":
        inputs = replace(inputs, backbones={"one": inputs.backbones["two"], "two": inputs.backbones["one"]})
    recipe = world.recipe()
    if changed == "recipe":
        recipe = recipe.model_copy(update={"reuse_fakes": True})
    interrupt(Student, 0, "crash")
    with pytest.raises(Exception) as error:
        distill(folder, recipe, SEED + 1 if changed == "seed" else SEED, inputs)
    assert error.type.__name__ == "Crash"
    (aside,) = folder.glob("state.*")
    assert (aside / "finished.json").exists()


def test_a_full_disk_ends_the_run_and_room_resumes_it(
    world: Any,
    tmp_path: Path,
    uninterrupted: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    published: Callable[[Path], dict[str, bytes]],
) -> None:
    recipe = world.recipe()
    original, saved = Path.write_bytes, []

    def write_bytes(self: Path, content: bytes) -> int:
        if self.suffix == ".pt":
            saved.append(self)
            if len(saved) == 2:
                original(self, bytes(content)[:1000])
                raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return original(self, content)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(Path, "write_bytes", write_bytes)
        distill(tmp_path / "run", recipe, SEED, world.inputs(), checkpoint_every=8)
    (checkpoint,) = (tmp_path / "run" / "state" / "checkpoints").iterdir()
    assert checkpoint.name.startswith("000000000008-")
    distill(tmp_path / "run", recipe, SEED, world.inputs(), checkpoint_every=8)
    assert published(tmp_path / "run") == published(uninterrupted("gdd"))


@pytest.mark.parametrize(
    ("recipe", "inputs", "sentence"),
    [
        (
            {},
            {"teacher": Path("no/teacher.safetensors")},
            "The teacher no/teacher.safetensors does not exist",
        ),
        ({}, {"backbones": {}}, "The backbone 'one' was given no file"),
        ({"objective": DIRECT}, {"pairs": None}, "pass the file that 'gdd pairs' made as --pairs"),
        (
            {"objective": {"instance": "direct"}, "teacher_sampler": {"steps": 2, "churn": 10.0}},
            {},
            "needs a deterministic sampler; set 'teacher_sampler.churn' to 0",
        ),
        ({"freeze": ["*no-such-layer*"]}, {}, "matches no parameter"),
    ],
)
def test_bad_input_is_one_sentence(
    world: Any, tmp_path: Path, recipe: dict[str, Any], inputs: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError) as error:
        distill(tmp_path / "run", world.recipe(**recipe), SEED, replace(world.inputs(), **inputs))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_teacher_of_other_images_is_refused(world: Any, tmp_path: Path) -> None:
    data = replace(world.data, images=world.data.images[:, :4, :4])
    with pytest.raises(
        UserError, match="makes 1-channel images of 8 pixels, the data set 'blobs' holds 1 of 4"
    ):
        prepare(world.recipe(), SEED, world.inputs(), data, tmp_path)
