"""`gdd --gpus`: what commands make of the GPUs they are given; made-up ones, so nothing is computed on them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from click.testing import CliRunner, Result

from gdd import gpus
from gdd.cli import cli
from gdd.errors import STOPPED
from gdd.training import processes
from gdd.training.processes import ONE, Nodes

Distill = Callable[..., Result]


@pytest.fixture(autouse=True)
def _machine(tmp_path: Path) -> Iterator[None]:
    """A machine of four GPUs."""
    own = {gpus.LOCKS: str(tmp_path / "locks"), "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    left_out = ("SLURM_JOB_ID", gpus.DEVICE, "RANK", "LOCAL_WORLD_SIZE")
    rest = {name: value for name, value in os.environ.items() if name not in left_out}
    with mock.patch.dict(os.environ, rest | own, clear=True):
        yield


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is started instead of training: (processes, machines, what they see)."""
    calls: list[Any] = []

    def start(command: list[str], processes: int, nodes: Nodes) -> int:
        assert command[:3] == [sys.executable, "-m", "gdd"]
        calls.append((processes, nodes, os.environ["CUDA_VISIBLE_DEVICES"]))
        return STOPPED

    monkeypatch.setattr(processes, "launch", start)
    return calls


@pytest.fixture
def distill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distill:
    """Call `gdd distill` for a run of four groups of 64 images, of which nothing is there."""
    config = str(Path("config").absolute())
    monkeypatch.chdir(tmp_path)

    def call(count: int, *options: str) -> Result:
        run = ["distill", "cifar10-uncond", "gdd", "--seed", "0"]
        result = CliRunner().invoke(cli, ["--config", config, "--gpus", str(count), *run, *options])
        gpus._for_life.close()  # as the end of a process does
        return result

    return call


@pytest.mark.parametrize(
    ("visible", "options", "processes"),
    [
        ("0,1", [], 2),  # one for each
        ("0,1,2,3,4,5", [], 4),  # as many as can share the batch
        ("0,1,2,3", ["--processes", "2"], 2),
    ],
)
def test_processes_on_one_machine(
    distill: Distill, launched: list[Any], visible: str, options: list[str], processes: int
) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = visible
    assert distill(len(visible.split(",")), *options).exit_code == STOPPED  # as they ended
    assert launched == [(processes, ONE, visible)]


@pytest.mark.parametrize("count", [0, 1])
def test_one_process_is_this_one(distill: Distill, launched: list[Any], count: int) -> None:
    assert "datasets/cifar10" in str(distill(count).exception)  # it went on to look for the data
    assert launched == []
    assert os.environ[gpus.DEVICE] == ("cuda" if count else "cpu")


def test_a_process_that_was_started_claims_nothing(
    distill: Distill, launched: list[Any], tmp_path: Path
) -> None:
    os.environ["RANK"] = "1"
    distill(2)
    assert launched == []
    assert not (tmp_path / "locks").exists()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"


@pytest.mark.slow
def test_several_machines(distill: Distill, launched: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "this is no SLURM job" in str(distill(2, "--nodes", "2").exception)
    gpus._for_life.close()  # as the end of the process does
    os.environ["CUDA_VISIBLE_DEVICES"] = "0,1,2,3"
    os.environ["SLURM_JOB_ID"] = "1"  # of eight GPUs, four of them here
    asked: list[Any] = []

    def begin(command: list[str], nodes: int, here: int) -> None:
        asked.append((nodes, here))
        sys.exit(0)

    monkeypatch.setattr(processes, "spread", begin)
    assert distill(8, "--nodes", "2").exit_code == 0
    assert asked == [(2, 4)]
    place = Nodes(2, 1, "first", 1234)
    monkeypatch.setattr(processes, "own_place", lambda: place)
    assert distill(8, "--nodes", "2").exit_code == STOPPED
    assert launched == [(4, place, "0,1,2,3")]


@pytest.mark.parametrize(("count", "refused"), [(1, True), (0, False)])
def test_a_claimed_gpu_that_torch_does_not_see_is_an_error(count: int, refused: bool) -> None:
    command = ["--gpus", str(count), "evaluate", "teacher", "digits", "digits", "--steps", "2"]
    with mock.patch("torch.cuda.is_available", return_value=False):
        assert ("A GPU is asked for" in str(CliRunner().invoke(cli, command).exception)) == refused


def test_threads_are_shared_by_the_processes_of_a_machine() -> None:
    import torch

    os.environ["LOCAL_WORLD_SIZE"] = "2"
    assert CliRunner().invoke(cli, ["--threads", "6", "plan", "--help"]).exit_code == 0
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(
    "words",
    [
        ["run", "cifar10-uncond", "gdd", "--seed", "0"],
        ["teacher", "cifar10-uncond", "edm-cifar10-32x32-uncond-ve", "--steps", "18"],
        ["external", "cifar10-uncond", "sid"],
    ],
)
def test_an_evaluation_has_a_process_on_each_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launched: list[Any], words: list[str]
) -> None:
    config = str(Path("config").absolute())
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["--config", config, "--gpus", "2", "evaluate", *words])
    gpus._for_life.close()
    assert result.exit_code == STOPPED
    assert launched == [(2, ONE, "0,1")]
