"""How many images go through the networks at once: that it changes nothing, and how it is found."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from gdd.distill import at_once
from gdd.distill.distill import prepare
from gdd.distill.student import Student
from gdd.errors import UserError
from gdd.training.world import PLAIN, Execution, World

pytestmark = pytest.mark.slow


def student_with(
    toy: Any, folder: Path, execution: Execution = PLAIN, conditional: bool = False, **changes: Any
) -> Student:
    inputs, recipe = toy.inputs(conditional), toy.recipe(**changes)
    return prepare(recipe, 1, inputs, toy.data, folder, execution=execution)


RECIPES: dict[str, dict[str, Any]] = {
    "combined": {
        "objective": {"distributional": "softplus", "instance": "direct", "pairs": 10},
        "flip": True,
    },
    "reused fakes": {"reuse_fakes": True, "augment": {"kind": "diffaugment"}},
}


@pytest.mark.parametrize(
    ("recipe", "other"),
    [("combined", "in parts"), ("combined", "channels last"), ("reused fakes", "in parts")],
)
def test_parts_and_memory_formats_give_the_same_gradients(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, other: str
) -> None:
    """Step by step, because Adam turns rounding into whole steps wherever a gradient is nearly zero."""
    whole = student_with(toy, tmp_path, Execution(images_at_once=8), **RECIPES[recipe])
    if other == "channels last":
        monkeypatch.setattr(World, "memory_format", torch.channels_last)
    count = 4 if other == "in parts" else 8
    apart = student_with(toy, tmp_path, Execution(images_at_once=count), **RECIPES[recipe])
    for _ in range(4):  # R1 is in the third
        apart.load(copy.deepcopy(whole.state()))
        assert apart.step() == pytest.approx(whole.step(), rel=1e-4, abs=1e-6)
        for name in ("optimizer", "discriminator_optimizer"):
            states = (getattr(student, name).state.values() for student in (whole, apart))
            for first, second in zip(*states, strict=True):
                # With beta1 = 0 the first moment is the last gradient.
                expected, found = first["exp_avg"], second["exp_avg"]
                tolerance = 1e-7 + 1e-4 * float(expected.abs().max())
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=tolerance)
    vectors = [
        {name: value for name, value in student.state()["discriminator"].items() if "weight_u" in name}
        for student in (whole, apart)
    ]
    assert vectors[0]  # one power iteration a pass, in however many parts
    torch.testing.assert_close(vectors[1], vectors[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "full"),
    [({"freeze": "conv"}, False), ({"reuse_fakes": True}, True)],
    ids=["it fits", "it does not"],
)
def test_a_trial_leaves_the_student_as_it_was(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], full: bool
) -> None:
    student, untouched = (student_with(toy, tmp_path, conditional=True, **changes) for _ in range(2))
    limits: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    calls: list[None] = []

    def run_out(*_: Any) -> None:
        calls.append(None)
        if full and len(calls) == 2:  # in the middle of a pass, in its second part
            raise torch.OutOfMemoryError("out of memory")

    assert student.discriminator
    hook = student.discriminator.heads["one"].register_forward_pre_hook(run_out)
    assert at_once.fits(student, 4) is not full
    hook.remove()
    assert limits == [at_once.FULL, 1.0]
    assert student.optimizer.state == {}
    for _ in range(3):
        assert student.step() == untouched.step()


@pytest.mark.parametrize(
    ("limit", "others", "found", "tried"),
    [
        (28, 7, 28, [28]),
        (20, 7, 16, [28, 16]),
        (4, 7, 4, [28, 16, 8, 4]),
        (28, 2, 8, [28]),
        (3, 7, 0, [28, 16, 8, 4]),
    ],
)
def test_all_processes_take_what_fits_into_the_smallest_gpu(
    toy: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    others: int,
    found: int,
    tried: list[int],
) -> None:
    """Seven groups of four, in halves; `others` is the number of groups that fit into the smallest other GPU."""
    student, seen = student_with(toy, tmp_path, batch=28), []
    student.world = World(device=torch.device("cuda", 0))
    monkeypatch.setattr(World, "all_gather", lambda _, pieces: [pieces, others])
    monkeypatch.setattr(at_once, "fits", lambda _, count: seen.append(count) or count <= limit)
    properties = type("Properties", (), {"total_memory": 16 * 2**30})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    if found:
        assert at_once.images_at_once(student) == found
    else:
        with pytest.raises(UserError, match="4 of them at once does not fit into this GPU's 16 GiB"):
            at_once.images_at_once(student)
    assert seen == tried
    with pytest.raises(UserError, match="6 images at once per device are no multiple of 4"):
        at_once.images_at_once(student, 6)
