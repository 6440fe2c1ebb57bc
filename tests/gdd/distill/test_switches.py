"""Switches that change how a run is executed, and what frozen parameters cost."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from gdd.distill.distill import prepare
from gdd.distill.student import Student
from gdd.training.execution import PLAIN, Execution
from gdd.training.world import World

pytestmark = pytest.mark.slow

# Traces both directions as the default does, but leaves out the C++ compiler, which takes minutes.
BACKEND = "inductor" if os.environ.get("GDD_ALL") else "aot_eager"


def student_with(world: Any, folder: Path, execution: Execution = PLAIN, **changes: Any) -> Student:
    return prepare(world.recipe(**changes), 1, world.inputs(), world.data, folder, execution=execution)[0]


def test_compiled_networks_train_alike(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=BACKEND))
    plain, fast = (student_with(world, tmp_path, Execution(compile=compile)) for compile in (False, True))
    for _ in range(3):  # R1 is in the third
        assert fast.step() == pytest.approx(plain.step(), rel=1e-4, abs=1e-6)
    assert fast.generate is not fast.generator
    assert "does not work here" not in caplog.text
    for one, other in zip(fast.average.parameters(), plain.average.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_frozen_parameters_have_no_gradient_no_moments_and_no_part_in_the_sum(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    original = World.all_reduce

    def noted(self: World, tensors: Any) -> None:
        sent.append(sum(tensor.numel() for tensor in tensors))
        original(self, tensors)

    monkeypatch.setattr(World, "all_reduce", noted)
    student = student_with(world, tmp_path, freeze="conv")
    student.step()
    trainable = [parameter for parameter in student.generator.parameters() if parameter.requires_grad]
    count = sum(parameter.numel() for parameter in trainable)
    assert 0 < count < sum(parameter.numel() for parameter in student.generator.parameters())
    assert sent[0] == count  # the generator's step comes first
    assert set(student.optimizer.state) == set(trainable)
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in trainable)
    for parameter in student.generator.parameters():
        assert parameter.requires_grad or parameter.grad is None
    for optimizer in (student.optimizer, student.discriminator_optimizer):
        assert optimizer
        assert optimizer.param_groups[0]["fused"]
