"""Claiming GPUs: made-up ones, named in CUDA_VISIBLE_DEVICES; locks are told apart inside one process as well."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import pytest

from gdd import gpus
from gdd.errors import UserError
from gdd.gpus import claim, visible_devices


@pytest.fixture(autouse=True)
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    """A machine of two GPUs, whose locks are this test's own, and what holds them to its end."""
    monkeypatch.setattr(gpus, "POLL", 0.01)
    own = {gpus.LOCKS: str(tmp_path / "locks"), "CUDA_VISIBLE_DEVICES": "0,1"}
    left_out = ("SLURM_JOB_ID", "CUDA_DEVICE_ORDER", gpus.DEVICE)
    rest = {name: value for name, value in os.environ.items() if name not in left_out}
    with mock.patch.dict(os.environ, rest | own, clear=True), ExitStack() as stack:
        yield stack


def claim_of(devices: str, count: int, held: ExitStack) -> tuple[str, ...]:
    os.environ["CUDA_VISIBLE_DEVICES"] = devices
    return claim(count, held)


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an nvidia-smi in the way that knows two GPUs."""
    (folder / "bin").mkdir()
    (folder / "bin" / "nvidia-smi").write_text("#!/bin/sh\necho '0, GPU-11-aa'\necho '1, GPU-22-bb'\n")
    (folder / "bin" / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=os.pathsep)


def test_two_claims_get_different_ones_and_see_no_other(held: ExitStack) -> None:
    first = ExitStack()
    assert (claim(1, first), os.environ["CUDA_VISIBLE_DEVICES"]) == (("0",), "0")
    assert os.environ[gpus.DEVICE] == "cuda"
    assert claim_of("0,1", 1, held) == ("1",)
    first.close()
    assert claim_of("0,1", 1, held) == ("0",)


def test_who_waits_for_several_holds_none(held: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    """Two with different choices could each hold what the other waits for."""
    third = ExitStack()
    claim_of("2", 1, third)
    os.environ["CUDA_VISIBLE_DEVICES"] = "0,1,2"
    waiting = threading.Thread(target=claim, args=(3, held))
    waiting.start()
    while "Waiting for 3 of the GPUs 0, 1, 2, until another job ends." not in caplog.text:
        assert waiting.is_alive()
    with ExitStack() as others:
        assert claim_of("0,1", 2, others) == ("0", "1")
    third.close()
    waiting.join(timeout=60)
    assert not waiting.is_alive()


def test_a_claim_ends_with_its_process(held: ExitStack) -> None:
    code = "import time; from gdd.gpus import claim; print(*claim(2), flush=True); time.sleep(600)"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as other:
        assert other.stdout
        assert other.stdout.readline() == "0 1\n"
        waiting = threading.Thread(target=claim, args=(1, held))
        waiting.start()
        waiting.join(timeout=0.1)
        assert waiting.is_alive()
        other.kill()
    waiting.join(timeout=60)
    assert not waiting.is_alive()


@pytest.mark.parametrize(
    ("variable", "devices"),
    [
        ("", []),
        ("3, 1", ["3", "1"]),
        ("GPU-1,GPU-2,MIG-3", ["GPU-1", "GPU-2", "MIG-3"]),
        ("0,-1,2", ["0"]),
        ("NoDevFiles", []),
    ],
)
def test_what_cuda_would_see(variable: str, devices: list[str]) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = variable
    assert visible_devices() == devices


def test_all_of_the_machine_where_nobody_chose(
    held: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    del os.environ["CUDA_VISIBLE_DEVICES"]
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    assert claim(1, held) == ()
    assert caplog.messages == ["1 GPU(s) asked for, none here."]
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ[gpus.DEVICE]) == ("", "cpu")
    del os.environ["CUDA_VISIBLE_DEVICES"], os.environ[gpus.DEVICE]
    driver(tmp_path, monkeypatch)
    assert claim(4, held) == ("0", "1")
    assert "4 GPU(s) asked for, 2 here." in caplog.messages
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_a_gpu_by_its_number_and_by_its_name_is_one(
    held: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(tmp_path, monkeypatch)
    assert claim_of("GPU-11-aa", 1, held) == ("GPU-11-aa",)
    assert claim_of("0,1", 1, held) == ("1",)


@pytest.mark.skipif(os.getuid() != 0, reason="root alone can be two users")
def test_locks_are_for_all_users(held: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpus.LOCKS, f"{held.enter_context(TemporaryDirectory(dir='/tmp'))}/locks")
    Path(os.environ[gpus.LOCKS]).parent.chmod(0o755)
    assert claim_of("2", 1, held) == ("2",)  # makes the folder, and imports what others may not read

    def other(user: int) -> None:
        os.setuid(user)
        os._exit(int(claim_of("0,1,2", 1, held)[0]))

    forking = multiprocessing.get_context("fork")
    for user in (1001, 1002):  # the second takes the lock that the first has made
        process = forking.Process(target=other, args=(user,))
        process.start()
        process.join(60)
        assert process.exitcode == 0


def test_none_hides_all_and_leaves_a_choice_of_device(held: ExitStack) -> None:
    assert claim(0, held) == ()
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ[gpus.DEVICE]) == ("", "cpu")
    claim_of("0", 1, held)
    assert os.environ[gpus.DEVICE] == "cpu"


@pytest.mark.parametrize("variable", ["", None])
def test_a_job_without_the_gpus_it_asked_for_does_not_go_on_silently(
    variable: str | None, held: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if variable is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = variable
    with pytest.raises(UserError, match=r"2 GPU\(s\) asked for in SLURM job 7, but it sees none; see what"):
        claim(2, held)
    assert claim(0, held) == ()
    os.environ[gpus.DEVICE] = "cpu"
    assert claim_of("", 2, held) == ()
