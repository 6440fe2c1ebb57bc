from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from gdd.adversary.normalisation import PowerIterations
from gdd.distill.distill import prepare
from gdd.distill.memory import fits, memory_needed, most_that_fit
from gdd.distill.rehearsal import rehearse
from gdd.distill.student import Student
from gdd.errors import UserError
from gdd.training.execution import Execution
from gdd.training.world import World

pytestmark = pytest.mark.slow


def student_with(
    world: Any, folder: Path, execution: Execution, conditional: bool = False, **changes: Any
) -> Student:
    inputs, recipe = world.inputs(conditional), world.recipe(**changes)
    student, _ = prepare(recipe, 1, inputs, world.data, folder, execution=execution)
    return student


def tensors(student: Student) -> dict[str, torch.Tensor]:
    state = student.state()
    return {
        f"{part}.{name}": tensor
        for part in ("generator", "average", "discriminator")
        for name, tensor in state[part].items()
    }


@pytest.mark.parametrize(
    ("limit", "found", "tried"),
    [(256, 256, [256]), (200, 128, [256, 128]), (64, 64, [256, 128, 64]), (63, 0, [256, 128, 64])],
)
def test_the_largest_part_that_fits(limit: int, found: int, tried: list[int]) -> None:
    seen: list[int] = []

    def try_out(count: int) -> bool:
        seen.append(count)
        return count <= limit

    assert most_that_fit(64, 256, try_out) == found
    assert seen == tried


def test_parts_are_whole_pieces() -> None:
    assert most_that_fit(10, 70, lambda count: count <= 45) == 40


@pytest.mark.parametrize("conditional", [False, True])
def test_a_rehearsal_goes_through_a_whole_step(world: Any, tmp_path: Path, conditional: bool) -> None:
    student = student_with(world, tmp_path, Execution(), conditional, freeze="conv")
    before = copy.deepcopy(student.state())
    rehearse(student, 8)
    assert len(student.optimizer.state) == len(student.trainable)
    assert any(
        not torch.equal(one, other)
        for one, other in zip(
            before["discriminator"].values(), student.state()["discriminator"].values(), strict=True
        )
    )
    student.load(before)
    assert student.optimizer.state == {}
    untouched = student_with(world, tmp_path, Execution(), conditional, freeze="conv")
    assert student.step() == untouched.step()


def test_the_memory_grows_with_the_images(world: Any, tmp_path: Path) -> None:
    student = student_with(world, tmp_path, Execution())
    before = {name: tensor.clone() for name, tensor in tensors(student).items()}
    few, many = memory_needed(student, 4), memory_needed(student, 64)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(student).items())
    weights = sum(parameter.numel() for parameter in student.generator.parameters()) * 4
    # The weights, their average, gradients and two moments; then at least 30 values a pixel and image.
    assert few > 5 * weights
    assert many - few > 60 * 64 * 30 * 4
    frozen = student_with(world, tmp_path, Execution(), freeze="conv")
    assert memory_needed(frozen, 4) < few


def test_what_networks_keep_for_themselves_counts_once(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transformed filters belong to a network and not to an image, also before its first pass."""
    student = student_with(world, tmp_path, Execution())
    look, filters = student.look, torch.zeros(0)

    def keeping(images: torch.Tensor) -> Any:
        nonlocal filters
        if not len(filters):
            filters = torch.ones(10**7)
            student.discriminator.register_buffer("filters", filters, persistent=False)  # type: ignore[union-attr]
        return [[tap * filters[0] for tap in taps] for taps in look(images)]

    without = memory_needed(student, 8)
    monkeypatch.setattr(student, "look", keeping)
    assert memory_needed(student, 8) - without < 2 * 4 * 10**7


@pytest.mark.parametrize(
    ("count", "sentence"),
    [
        (
            2,
            r"2 images at once are fewer than the 4 that the recipe normalises over together; 4 at once need about [\d.e-]+ GiB",
        ),
        (6, "6 images at once per device are no multiple of 4"),
    ],
)
def test_a_part_that_is_no_group_is_refused(world: Any, tmp_path: Path, count: int, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        student_with(world, tmp_path, Execution(images_at_once=count))
    assert "\n" not in str(error.value)


def test_the_choice_is_kept_with_the_state_and_for_the_same_machine_only(world: Any, tmp_path: Path) -> None:
    first = student_with(world, tmp_path, Execution(images_at_once=8))
    first.step()
    state = first.state()
    resumed = student_with(world, tmp_path, Execution())
    resumed.load(state)
    assert resumed.images_at_once == 8
    elsewhere = student_with(world, tmp_path, Execution())
    elsewhere.load(state | {"images_at_once": {"on": "4 x other", "images": 8}})
    assert elsewhere.images_at_once is None
    given = student_with(world, tmp_path, Execution(images_at_once=4))
    given.load(state)
    assert given.images_at_once == 4


def test_all_choose_where_one_process_does_not_know(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On unlike GPUs some find their own name in the state and some do not."""
    first = student_with(world, tmp_path, Execution(images_at_once=8))
    first.step()
    asked: list[bool] = []

    def another_does_not(_: World, flag: bool) -> bool:
        asked.append(flag)
        return True

    monkeypatch.setattr(World, "any", another_does_not)
    resumed = student_with(world, tmp_path, Execution())
    resumed.load(first.state())
    assert resumed.images_at_once == 8
    resumed.step()
    assert resumed.images_at_once == resumed.layout.piece == 4
    resumed.step()
    assert asked == [False]  # and only once


@pytest.mark.parametrize(("by_others", "fitting"), [(0, True), (20, False)])
def test_what_others_hold_of_a_gpu_is_not_there(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_others: int, fitting: bool
) -> None:
    student = student_with(world, tmp_path, Execution())
    known = {
        "mem_get_info": lambda _: (100 - 10 - by_others, 100),
        "memory_reserved": lambda _: 10,
        "max_memory_reserved": lambda _: 80,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda _: None,
    }
    for name, value in known.items():
        monkeypatch.setattr(torch.cuda, name, value)
    assert fits(student, 4) is fitting


def test_a_pass_iterates_once_in_however_many_parts(world: Any, tmp_path: Path) -> None:
    whole = student_with(world, tmp_path, Execution()).discriminator
    assert whole
    parts = copy.deepcopy(whole)
    images = torch.randn(8, 1, 8, 8)
    for _ in range(2):
        whole(images)
        iterations = PowerIterations(parts)
        iterations.begin(2)
        for part in images.split(4):
            for name in ("fakes", "reals"):
                with iterations.of_pass(name):
                    parts(part)
        whole(images)
        for name, vector in whole.state_dict().items():
            if name.endswith(("weight_u", "weight_v")):
                assert torch.equal(vector, parts.state_dict()[name])
    assert all(layer.training for layer in iterations.layers)


def test_parts_give_the_same_gradients_as_the_whole(world: Any, tmp_path: Path) -> None:
    """Step by step, because Adam turns rounding into whole steps wherever a gradient is nearly zero."""
    objective = {"distributional": "softplus", "instance": "direct", "pairs": 10}
    students = [
        student_with(world, tmp_path, Execution(images_at_once=count), objective=objective, flip=True)
        for count in (8, 4)
    ]
    whole, apart = students
    for _ in range(4):  # R1 is in the third
        apart.load(copy.deepcopy(whole.state()))
        scalars = [student.step() for student in students]
        assert scalars[0] == pytest.approx(scalars[1], rel=1e-4, abs=1e-6)
        for one, other in (
            (whole.optimizer, apart.optimizer),
            (whole.discriminator_optimizer, apart.discriminator_optimizer),
        ):
            assert one
            assert other
            pairs = zip(one.state.values(), other.state.values(), strict=True)
            for first, second in pairs:  # with beta1 = 0 the first moment is the last gradient
                largest = float(first["exp_avg"].abs().max())
                torch.testing.assert_close(
                    first["exp_avg"], second["exp_avg"], rtol=1e-3, atol=1e-7 + 1e-4 * largest
                )


def test_a_mirrored_data_set_and_coarse_backbones_are_other_recipes(world: Any, tmp_path: Path) -> None:
    plain = student_with(world, tmp_path, Execution())
    parts = {}
    for name, changes in {"plain": {}, "flip": {"flip": True}}.items():
        student = student_with(world, tmp_path, Execution(), **changes)
        parts[name] = torch.cat([part.images for part in student.shares.parts(0, 4)])
    mirrored = [not torch.equal(one, other) for one, other in zip(*parts.values(), strict=True)]
    assert 0 < sum(mirrored) < 8
    assert torch.equal(parts["flip"][mirrored.index(True)].flip(-1), parts["plain"][mirrored.index(True)])

    coarse = student_with(world, tmp_path, Execution(), backbone_precision="bfloat16")
    scalars, expected = coarse.step(), plain.step()
    assert scalars != expected
    assert scalars["loss_discriminator"] == pytest.approx(expected["loss_discriminator"], rel=0.05)
    keys = world.recipe().model_dump(mode="json").keys()
    assert not keys & {"flip", "keep", "backbone_precision"}  # older recipes keep their hashes


def test_channels_last_changes_rounding_only(world: Any, tmp_path: Path) -> None:
    plain = student_with(world, tmp_path, Execution())
    other = student_with(world, tmp_path, Execution(channels_last=True))
    assert plain.step() == pytest.approx(other.step(), rel=1e-4)
    other.snapshot(8)
    resumed = student_with(world, tmp_path, Execution(channels_last=True))  # what another machine has saved
    resumed.load(copy.deepcopy(plain.state()))
    for parameter, moments in resumed.optimizer.state.items():
        assert moments["exp_avg"].stride() == parameter.stride()
    assert plain.step() == pytest.approx(resumed.step(), rel=1e-4)
