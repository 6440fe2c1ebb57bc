"""One run in several processes: the same weights however the images are spread, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import in_processes

from gdd.distill.distill import distill
from gdd.distill.student import Student
from gdd.errors import STOPPED, ProcessLost, Stopped, UserError
from gdd.networks.checkpoint import load_denoiser, load_generator
from gdd.networks.preconditioning import OneStepGenerator
from gdd.training.processes import STOP_FILE_VARIABLE
from gdd.training.world import PLAIN, Execution

pytestmark = pytest.mark.slow

SEED = 1
LOST, REFUSED = 7, 2
# Few steps, and small ones: Adam turns rounding into whole steps wherever a gradient is nearly zero.
RECIPE = {"lr": {"generator": 1e-5, "discriminator": 1e-5}, "flip": True}

At = Callable[[Student, int], None]


def run_in(count: int, toy: Any, folder: Path, at: At | None = None, **changes: Any) -> list[int]:
    """Return how a run in `count` processes ends; `at` is called before every step with student and rank."""

    def work(rank: int) -> None:
        original = Student.step

        def step(self: Student) -> dict[str, float]:
            if at:
                at(self, rank)
            return original(self)

        Student.step = step  # type: ignore[method-assign]
        try:
            run(toy, folder, **changes)
        except Stopped:
            os._exit(STOPPED)
        except ProcessLost:
            os._exit(LOST)
        except UserError as error:
            (folder.parent / f"refused-{rank}").write_text(str(error))
            os._exit(REFUSED)

    return in_processes(count, work)


def run(toy: Any, folder: Path, execution: Execution = PLAIN, **changes: Any) -> None:
    recipe = toy.recipe(**(RECIPE | changes))
    distill(folder, recipe, SEED, toy.inputs(), checkpoint_every=8, execution=execution)


def weights(generator: Any) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in generator.state_dict().values()])


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_the_same_run(toy: Any, one: Path, other: Path) -> None:
    before = weights(OneStepGenerator.from_denoiser(load_denoiser(toy.teachers[False])))
    for images in ("000000016", "000000032"):
        first, second = (
            weights(load_generator(folder / "snapshots" / f"{images}.safetensors")) - before
            for folder in (one, other)
        )
        assert first.abs().max() > 1e-6  # it has been trained
        assert float((first - second).norm() / first.norm()) < 1e-3, images
    for line, expected in zip(lines(one), lines(other), strict=True):
        for key in line.keys() & {"loss_generator", "loss_discriminator", "logits_real", "logits_fake"}:
            assert line[key] == pytest.approx(expected[key], rel=1e-3)
        assert line.get("augment_p") == expected.get("augment_p")


@pytest.fixture(scope="module")
def alone(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one process that takes both groups of a batch at once."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    run(toy, folder, Execution(images_at_once=8))
    return folder


@pytest.mark.parametrize("processes", [1, 2, 4], ids=["accumulated", "a group each", "half a group each"])
def test_no_layout_changes_the_weights(toy: Any, tmp_path: Path, alone: Path, processes: int) -> None:
    assert run_in(processes, toy, tmp_path / "run") == [0] * processes
    assert_the_same_run(toy, alone, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["sessions"][0]["processes"] == processes
    assert facts["images_at_once"] == {1: 4, 2: 4, 4: 2}[processes]


LOCAL = {"kind": "local", "channels": 4, "projection_channels": 4, "norm_group": 4}


def test_projections_belong_to_groups(toy: Any, tmp_path: Path, alone: Path) -> None:
    changes = {"heads": LOCAL | {"projections": 2}}
    run(toy, tmp_path / "whole", Execution(images_at_once=8), **changes)
    assert lines(tmp_path / "whole")[0]["loss_generator"] != lines(alone)[0]["loss_generator"]
    for processes in (1, 2, 4):  # in parts, a group each, half a group each
        assert run_in(processes, toy, tmp_path / str(processes), **changes) == [0] * processes
        assert_the_same_run(toy, tmp_path / "whole", tmp_path / str(processes))


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": {"distributional": "hinge", "instance": "direct"}, "reuse_fakes": True},
        {"augment": {"kind": "ada", "target": -0.9, "speed_kimg": 0.01}, "images": 40},
    ],
    ids=["combined", "ADA"],
)
def test_all_that_is_drawn_belongs_to_groups(toy: Any, tmp_path: Path, changes: dict[str, Any]) -> None:
    run(toy, tmp_path / "alone", **changes)
    assert run_in(2, toy, tmp_path / "two", **changes) == [0, 0]
    assert_the_same_run(toy, tmp_path / "alone", tmp_path / "two")
    if "augment" in changes:
        assert max(line["augment_p"] for line in lines(tmp_path / "two")) > 0


def test_resuming_with_the_same_processes_changes_no_bit_and_with_others_hardly_any(
    toy: Any,
    tmp_path: Path,
    alone: Path,
    monkeypatch: pytest.MonkeyPatch,
    published: Callable[[Path], dict[str, bytes]],
) -> None:
    stop = tmp_path / "stop"
    monkeypatch.setenv(STOP_FILE_VARIABLE, str(stop))

    def ask(student: Student, rank: int) -> None:
        if student.images == 16 and rank == 1:
            stop.touch()

    assert run_in(2, toy, tmp_path / "whole") == [0, 0]
    assert run_in(2, toy, tmp_path / "same", ask) == [STOPPED, STOPPED]
    checkpoints = (tmp_path / "same" / "state" / "checkpoints").iterdir()
    assert max(path.name for path in checkpoints).startswith("000000000024-")
    stop.unlink()
    shutil.copytree(tmp_path / "same", tmp_path / "fewer")
    for folder, processes in (("same", 2), ("fewer", 1)):
        assert run_in(processes, toy, tmp_path / folder) == [0] * processes
    assert published(tmp_path / "same") == published(tmp_path / "whole")
    assert_the_same_run(toy, alone, tmp_path / "fewer")
    sessions = json.loads((tmp_path / "fewer" / "run.json").read_text())["sessions"]
    assert [session["processes"] for session in sessions] == [2, 1]


def test_an_error_in_the_main_process_ends_the_others(toy: Any, tmp_path: Path) -> None:
    def full(student: Student, rank: int) -> None:
        def snapshot(images: int) -> None:
            raise UserError("the disk is full")

        student.snapshot = snapshot  # type: ignore[method-assign]

    assert run_in(2, toy, tmp_path / "run", full) == [REFUSED, LOST]


DIRECT = {"objective": {"instance": "direct", "pairs": 10}}


@pytest.mark.parametrize(
    ("processes", "changes", "sentence"),
    [
        (3, {}, "3 processes cannot share the batch of 2 x 4 images evenly; use at most 2, or 4, 8"),
        (4, DIRECT, "use at most 2 because an instance-based objective needs whole groups"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    toy: Any, tmp_path: Path, processes: int, changes: dict[str, Any], sentence: str
) -> None:
    assert run_in(processes, toy, tmp_path / "run", **changes) == [REFUSED] * processes
    assert sentence in (tmp_path / "refused-0").read_text()
