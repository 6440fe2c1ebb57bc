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
    world: Any, folder: Path, execution: Execution = PLAIN, conditional: bool = False, **changes: Any
) -> Student:
    inputs, recipe = world.inputs(conditional), world.recipe(**changes)
    return prepare(recipe, 1, inputs, world.data, folder, execution=execution)[0]


RECIPES: dict[str, dict[str, Any]] = {
    "combined": {
        "objective": {"distributional": "softplus", "instance": "direct", "pairs": 10},
        "flip": True,
    },
    "reused fakes": {"reuse_fakes": True, "augment": {"kind": "diffaugment"}},
}


@pytest.mark.parametrize("other", ["in parts", "channels last"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_parts_and_memory_formats_give_the_same_gradients(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, other: str
) -> None:
    """Step by step, because Adam turns rounding into whole steps wherever a gradient is nearly zero."""
    whole = student_with(world, tmp_path, Execution(images_at_once=8), **RECIPES[recipe])
    if other == "channels last":
        monkeypatch.setattr(World, "memory_format", torch.channels_last)
    count = 4 if other == "in parts" else 8
    apart = student_with(world, tmp_path, Execution(images_at_once=count), **RECIPES[recipe])
    for _ in range(4):  # R1 is in the third
        apart.load(copy.deepcopy(whole.state()))
        assert apart.step() == pytest.approx(whole.step(), rel=1e-4, abs=1e-6)
        for one, two in (
            (whole.optimizer, apart.optimizer),
            (whole.discriminator_optimizer, apart.discriminator_optimizer),
        ):
            assert one
            assert two
            # With beta1 = 0 the first moment is the last gradient.
            for first, second in zip(one.state.values(), two.state.values(), strict=True):
                expected, found = first["exp_avg"], second["exp_avg"]
                tolerance = 1e-7 + 1e-4 * float(expected.abs().max())
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=tolerance)
    vectors = [
        {name: value for name, value in student.state()["discriminator"].items() if "weight_u" in name}
        for student in (whole, apart)
    ]
    assert vectors[0]  # one power iteration a pass, in however many parts
    for name, vector in vectors[0].items():
        torch.testing.assert_close(vectors[1][name], vector, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("limit", "found", "tried"),
    [(256, 256, [256]), (200, 128, [256, 128]), (64, 64, [256, 128, 64]), (63, 0, [256, 128, 64])],
)
def test_the_largest_part_that_fits(limit: int, found: int, tried: list[int]) -> None:
    seen: list[int] = []

    def try_out(count: int) -> bool:
        seen.append(count)
        return count <= limit

    assert at_once.most_that_fit(64, 256, try_out) == found
    assert seen == tried
    assert at_once.most_that_fit(10, 70, lambda count: count <= 45) == 40  # whole groups


@pytest.mark.parametrize(("by_others", "outcome"), [(0, True), (20, False), (0, "full")])
@pytest.mark.parametrize("changes", [{"freeze": "conv"}, {"reuse_fakes": True}], ids=["gdd-i", "reused"])
def test_a_trial_leaves_the_student_as_it_was(
    world: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    by_others: int,
    outcome: bool | str,
) -> None:
    """What other processes hold of a GPU is not there; and memory may run out in the middle of a pass."""
    student, untouched = (student_with(world, tmp_path, conditional=True, **changes) for _ in range(2))
    known = {
        "mem_get_info": lambda _: (100 - 10 - by_others, 100),
        "memory_reserved": lambda _: 10,
        "max_memory_reserved": lambda _: 80,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda _: None,
    }
    for name, value in known.items():
        monkeypatch.setattr(torch.cuda, name, value)
    if outcome == "full":
        calls: list[None] = []

        def full(*_: Any) -> None:
            calls.append(None)
            if len(calls) == 2:  # with reused fakes in the second part of a pass
                raise torch.OutOfMemoryError("out of memory")

        heads = student.discriminator.heads["one"]  # type: ignore[union-attr]
        hook = heads.register_forward_pre_hook(full)
        assert not at_once.fits(student, 4)
        hook.remove()
    else:
        assert at_once.fits(student, 4) is outcome
    assert student.optimizer.state == {}
    for _ in range(3):
        assert student.step() == untouched.step()


def test_all_processes_take_what_fits_into_the_smallest_gpu(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = student_with(world, tmp_path, batch=16)
    student.world = World(device=torch.device("cuda", 0))
    monkeypatch.setattr(at_once, "fits", lambda _, count: count <= 8)
    assert at_once.images_at_once(student) == 8
    monkeypatch.setattr(World, "all_gather", lambda *_: [8, 4])
    assert at_once.images_at_once(student) == 4
    monkeypatch.setattr(World, "all_gather", lambda *_: [8, 0])
    properties = type("Properties", (), {"total_memory": 16 * 2**30})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    with pytest.raises(UserError, match="4 of them at once does not fit into this GPU's 16 GiB"):
        at_once.images_at_once(student)


@pytest.mark.parametrize("count", [2, 6])
def test_a_part_that_is_no_group_is_refused(world: Any, tmp_path: Path, count: int) -> None:
    with pytest.raises(UserError, match=f"{count} images at once per device are no multiple of 4"):
        student_with(world, tmp_path, Execution(images_at_once=count))
