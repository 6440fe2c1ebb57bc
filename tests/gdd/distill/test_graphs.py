"""Passes as graphs: that nothing but a tape of operators, on the memory they had, gives the ordinary step's bits."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gdd.distill.distill import _graphs, prepare
from gdd.distill.graphs import Graphs
from gdd.distill.student import Student
from gdd.training.world import Execution, World

pytestmark = pytest.mark.slow

# Whatever looks at a value, draws, or takes memory that only the CPU sees.
FORBIDDEN = ("_local_scalar_dense", "rand", "normal_", "bernoulli", "multinomial", "pin_memory", "nonzero")


class Tape(TorchDispatchMode):
    """The operators of a pass with the tensors that they had, as a GPU's graph has kernels with addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, result in self.calls:
            for old, new in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class TapedGraphs(Graphs):
    """Graphs of a student on the CPU. What is recorded has no effect before it is replayed."""

    def __init__(self, student: Student) -> None:
        super().__init__(["generator", "discriminator", "R1"])
        self.student = student
        self.tapes: list[Tape] = []

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        yield

    def _capture(self, work: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        before, tape = copy.deepcopy(self.student.state()), Tape()
        with tape:
            result = work()
        self.student.load(before)
        self.tapes.append(tape)
        return tape.replay, result


def student_with(toy: Any, folder: Path, at_once: int, **changes: Any) -> Student:
    execution = Execution(images_at_once=at_once)
    return prepare(toy.recipe(**changes), 1, toy.inputs(True), toy.data, folder, execution=execution)


def equal(one: Student, other: Student) -> bool:
    states = (tree_leaves(student.state()) for student in (one, other))
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(*states, strict=True))


@pytest.mark.parametrize(
    ("at_once", "changes"),
    [
        (4, {}),
        (8, {"freeze": "conv", "generator_steps": 2}),
        (4, {"reuse_fakes": True, "precision": "bfloat16"}),
        (4, {"batch": 12, "heads": {"projections": 2}}),
    ],
    ids=["two parts", "one part", "fakes again", "a batch begins with another set of projections"],
)
def test_the_same_bits(toy: Any, tmp_path: Path, at_once: int, changes: dict[str, Any]) -> None:
    heads = {**toy.recipe().heads.model_dump(), **changes.pop("heads", {})}
    ordinary, taped = (student_with(toy, tmp_path, at_once, heads=heads, **changes) for _ in range(2))
    taped.graphs = graphs = TapedGraphs(taped)
    for step in range(7):  # R1 in the third, fifth and seventh
        if step == 5 and ordinary.images_at_once != 4:
            for student in (ordinary, taped):
                student.images_at_once = 4
        assert dict(taped.step()) == dict(ordinary.step())
        assert equal(taped, ordinary)
        assert bool(graphs.recorded) == (step > 2)
    assert {name for name, *_ in graphs.recorded} == {"generator", "discriminator", "R1"}
    used = [func.overloadpacket.__name__ for tape in graphs.tapes for func, *_ in tape.calls]
    assert not [name for name in used if any(word in name for word in FORBIDDEN)]


def test_a_run_goes_on_where_it_was_put_back(toy: Any, tmp_path: Path) -> None:
    """Graphs keep the memory of what they train: a state is loaded into it. A snapshot has theirs."""
    ordinary, taped = (student_with(toy, tmp_path, 4) for _ in range(2))
    taped.graphs = TapedGraphs(taped)
    states = []
    for _ in range(5):
        states.append(copy.deepcopy(ordinary.state()))
        ordinary.step()
        taped.step()
    for student in (ordinary, taped):
        student.load(copy.deepcopy(states[1]))
    assert dict(taped.step()) == dict(ordinary.step())
    taped.snapshot(16)
    assert taped.graphs.recorded == {}
    assert all(parameter.grad is None for parameter in taped.generator.parameters())
    assert dict(taped.step()) == dict(ordinary.step())
    assert {name for name, *_ in taped.graphs.recorded} == {"generator", "discriminator", "R1"}
    assert equal(taped, ordinary)


def test_what_cannot_be_recorded_runs_as_it_is(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ordinary, taped = (student_with(toy, tmp_path, 4) for _ in range(2))
    taped.graphs = TapedGraphs(taped)
    capture = TapedGraphs._capture

    def fail(self: TapedGraphs, work: Callable[[], Any]) -> Any:
        if self.tapes:  # the second one, of the discriminator
            raise RuntimeError("operation not permitted when stream is capturing")
        return capture(self, work)

    monkeypatch.setattr(TapedGraphs, "_capture", fail)
    for _ in range(6):
        assert dict(taped.step()) == dict(ordinary.step())
    assert taped.graphs.recorded == {}
    assert caplog.text.count("the step goes on without: operation not permitted") == 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "there is no GPU"),
        ({"augment": {"kind": "diffaugment"}}, "augmentation"),
        ({"objective": {"distributional": "softplus", "instance": "direct", "pairs": 10}}, "instance-based"),
        ({"objective": {"instance": "direct", "pairs": 10}}, "there is no discriminator"),
    ],
)
def test_where_there_are_none(
    toy: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], why: str
) -> None:
    caplog.set_level(logging.INFO)
    student = student_with(toy, tmp_path, 4, **changes)
    student.world = World(device=torch.device("cpu" if changes == {} else "cuda"))
    assert _graphs(student) is None
    assert caplog.messages[-1].startswith("The step does without CUDA graphs: ")
    assert why in caplog.messages[-1]
    if why == "there is no GPU":
        student.world = World(device=torch.device("cuda"))
        found = _graphs(student)
        assert found
        assert found.names == {"generator", "discriminator", "R1"}
