"""What has to hold on a GPU. The same tests run on the CPU, which shows that they can pass."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_run
import tiny_project
import torch

from gdd.cli import cli
from gdd.distill import at_once
from gdd.distill.distill import prepare
from gdd.errors import UserError
from gdd.networks.group_norm import fused_group_norms
from gdd.probe import rates
from gdd.probe.errors import Exact, explained
from gdd.probe.random_run import RandomRun
from gdd.training.world import Execution, World, own_device

CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")],
)
SEEDS = (4, 5, 6)


@pytest.fixture(scope="module")
def run() -> Iterator[RandomRun]:
    with small_run.small_run() as found:
        yield found


@pytest.fixture(params=[pytest.param("cpu", marks=pytest.mark.slow), CUDA])
def device(request: Any) -> torch.device:
    return own_device(request.param)


# The CPU shows that the test itself runs, and little more.
on_a_gpu = pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=[pytest.mark.slow, pytest.mark.thorough]), CUDA], indirect=True
)


def close(found: list[dict[str, float]], expected: list[dict[str, float]]) -> bool:
    """Whether two runs log the same, but for what Adam makes of another rounding in a few steps."""
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    return all(
        line[key] == pytest.approx(other[key], rel=2e-2, abs=5e-3)
        for line, other in zip(found, expected, strict=True)
        for key in line
    )


def test_a_step_is_as_near_to_float64_as_plain_eager(run: RandomRun, device: torch.device) -> None:
    exact = Exact(run)
    kernels = [False, True] if device.type == "cuda" else [False]
    for precision, tf32, fused in itertools.product(("float32", "bfloat16"), (False, True), kernels):
        with fused_group_norms(fused):
            ours, plain = exact.errors(World(device=device), precision, tf32=tf32)
        assert explained(ours, plain), (precision, tf32, fused, ours, plain)
        assert max(ours.values()) < (1e-3 if precision == "float32" and not tf32 else 1.0)


def test_some_steps_are_those_of_the_cpu(run: RandomRun, device: torch.device) -> None:
    here, there = (
        run.student(small_run.BATCH, World(device=place)) for place in (device, torch.device("cpu"))
    )
    assert close(small_run.losses(here), small_run.losses(there))


def test_a_resumed_run_continues_with_the_same_losses(
    run: RandomRun, device: torch.device, tmp_path: Path
) -> None:
    world = World(device=device)
    whole = run.student(small_run.BATCH, world)
    small_run.losses(whole, 2)
    torch.save(whole.state(), tmp_path / "state.pt")
    expected = small_run.losses(whole)
    resumed = run.student(small_run.BATCH, world)
    resumed.load(torch.load(tmp_path / "state.pt", map_location="cpu", weights_only=True))
    found = small_run.losses(resumed)
    assert found == expected if device.type == "cpu" else close(found, expected)


@on_a_gpu
@pytest.mark.parametrize("at_once", [small_run.BATCH, small_run.GROUP])
def test_graphs_go_on_as_the_ordinary_step(
    run: RandomRun, device: torch.device, tmp_path: Path, at_once: int
) -> None:
    """From the fourth step on, R1 from the fifth on; and after the state of an earlier step is put back."""
    world, found = World(device=device), {}
    for graphs in (False, True):
        student = run.student(small_run.BATCH, world, graphs=graphs)
        student.images_at_once = at_once
        lines = small_run.losses(student, 3)
        torch.save(student.state(), tmp_path / "state.pt")
        lines += small_run.losses(student, 4)
        student.load(torch.load(tmp_path / "state.pt", map_location="cpu", weights_only=True))
        again = small_run.losses(student, 4)
        assert close(again, lines[3:])
        found[graphs] = lines
        if device.type == "cuda" and graphs:
            assert student.graphs
            assert {name for name, *_ in student.graphs.recorded} == {"generator", "discriminator", "R1"}
    print(f"graphs' losses are the ordinary step's to the bit: {found[True] == found[False]}")
    assert close(found[True], found[False])


@on_a_gpu
def test_two_processes_on_one_device_equal_one(run: RandomRun, device: torch.device, tmp_path: Path) -> None:
    search = os.pathsep.join([str(small_run.ROOT), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, small_run.__file__, device.type, str(rank), "2", str(tmp_path)],
            env=os.environ | {"PYTHONPATH": search},
        )
        for rank in range(2)
    ]
    expected = small_run.losses(run.student(small_run.BATCH, World(device=device)))
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    assert close(torch.load(tmp_path / "losses.pt"), expected)


def test_as_many_images_go_through_at_once_as_fit(
    run: RandomRun, device: torch.device, tmp_path: Path
) -> None:
    found = {}
    for wanted in (None, small_run.GROUP):
        execution, world = Execution(images_at_once=wanted), World(device=device)
        student = prepare(run.recipe, 0, run.inputs, run.data, tmp_path, world=world, execution=execution)
        found[wanted] = student.images_at_once, small_run.losses(student)
    # All of a batch fits into any GPU; a CPU takes a group.
    assert found[None][0] == (small_run.BATCH if device.type == "cuda" else small_run.GROUP)
    assert close(found[None][1], found[small_run.GROUP][1])


@pytest.fixture
def full(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A device whose memory is full; a CPU is made to look like one."""
    if device.type == "cuda":
        monkeypatch.setattr(at_once, "FULL", 0.0)
        rates.release(device)
        torch.cuda.set_per_process_memory_fraction(0.0, device)
        yield
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        return

    def run_out(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(at_once, "fits", lambda *_: False)
    monkeypatch.setattr(small_run.Student, "generator_step", run_out)
    properties = type("Properties", (), {"total_memory": 2**30})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    yield


def test_memory_that_is_full_is_said_in_a_sentence_and_given_back(
    run: RandomRun, device: torch.device, request: pytest.FixtureRequest
) -> None:
    student = run.student(small_run.BATCH, World(device=device))
    before = copy.deepcopy(student.generator.state_dict())
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    request.getfixturevalue("full")
    assert rates.speed(run, World(device=device), small_run.BATCH, tf32=False, seconds=0) is None
    assert (torch.cuda.memory_allocated(device) if device.type == "cuda" else 0) <= held
    student.world = World(device=torch.device("cuda", 0))
    with pytest.raises(UserError, match=r"step with 4 of them at once does not fit into this GPU's \d+ GiB"):
        at_once.images_at_once(student)
    for name, value in student.generator.state_dict().items():
        assert torch.equal(value, before[name])


def fid(folder: Path, seed: int, device: str) -> float:
    words = ["tiny", "gdd", "--seed", str(seed), "--device", device]
    cli(["distill", *words], standalone_mode=False)
    cli(["evaluate", "run", *words], standalone_mode=False)
    metrics = json.loads((folder / f"results/runs/tiny/gdd/seed{seed}/metrics.json").read_text())
    return float(metrics["final"]["mean"]["fid"])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """The tiny project, with references, and the distances of its runs on the CPU from some seeds."""
    folder = tiny_project.make_project(tmp_path_factory.mktemp("tiny"), images=640, snapshot_every=640)
    with contextlib.chdir(folder):
        cli(["reference", "digits", "random", "--device", "cpu"], standalone_mode=False)
        return folder, [fid(folder, seed, "cpu") for seed in SEEDS]


@on_a_gpu
def test_a_run_lands_within_the_spread_of_those_on_the_cpu(
    project: tuple[Path, list[float]], device: torch.device
) -> None:
    folder, of_seeds = project
    with contextlib.chdir(folder):
        found = fid(folder, 3, device.type)
    mean, spread = statistics.mean(of_seeds), statistics.stdev(of_seeds)
    assert abs(found - mean) <= 4 * spread + 0.05 * mean
