"""Claiming GPUs: made-up ones, named in CUDA_VISIBLE_DEVICES; locks are told apart inside one process as well."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from gdd import gpus
from gdd.errors import UserError
from gdd.gpus import Claim, claim, visible_devices

UUIDS = {"0": "GPU-11111111-aa", "1": "GPU-22222222-bb"}


@pytest.fixture(autouse=True)
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of two GPUs, whose locks are this test's own."""
    monkeypatch.setattr(gpus, "POLL", 0.01)
    own = {gpus.LOCKS: str(tmp_path / "locks"), "CUDA_VISIBLE_DEVICES": "0,1"}
    left_out = ("SLURM_JOB_ID", "CUDA_DEVICE_ORDER", gpus.DEVICE)
    rest = {name: value for name, value in os.environ.items() if name not in left_out}
    with mock.patch.dict(os.environ, rest | own, clear=True):
        yield
    while gpus._claims:
        gpus._claims.pop().locks.close()


def see(devices: str) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = devices


def claim_of(devices: str, count: int = 1) -> Claim:
    see(devices)
    return claim(count)


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an nvidia-smi in the way that knows both GPUs."""
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n" + "".join(f"echo '{index}, {uuid}'\n" for index, uuid in UUIDS.items()))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)


def test_two_claims_get_different_ones_and_see_no_other() -> None:
    first = claim(1)
    assert (first.devices, os.environ["CUDA_VISIBLE_DEVICES"]) == (("0",), "0")
    assert os.environ[gpus.DEVICE] == "cuda"
    second = claim_of("0,1")
    assert second.devices == ("1",)
    first.locks.close()
    assert claim_of("0,1").devices == ("0",)


def test_who_needs_several_is_not_overtaken(caplog: pytest.LogCaptureFixture) -> None:
    first = claim(1)
    see("0,1")
    order: list[int] = []

    def ask(count: int) -> None:
        claimed = claim(count)
        order.append(count)
        claimed.locks.close()

    wide, narrow = (threading.Thread(target=ask, args=(count,)) for count in (2, 1))
    wide.start()
    while "Waiting for 2" not in caplog.text:
        assert wide.is_alive()
    see("0,1")
    narrow.start()
    while "Waiting for 1 of the GPUs 0, 1, until" not in caplog.text:  # though GPU 1 was free when it asked
        assert narrow.is_alive()
    first.locks.close()
    for thread in (wide, narrow):
        thread.join(timeout=60)
    assert order == [2, 1]


def test_who_waits_for_several_holds_none(caplog: pytest.LogCaptureFixture) -> None:
    """Two with different choices could each hold what the other waits for."""
    third = claim_of("2")
    see("0,1,2")
    waiting = threading.Thread(target=lambda: claim(3).locks.close())  # noqa: PLW0108
    waiting.start()
    while "Waiting for 3" not in caplog.text:
        assert waiting.is_alive()
    claim_of("0,1", 2).locks.close()
    third.locks.close()
    waiting.join(timeout=60)
    assert not waiting.is_alive()


def test_a_claim_ends_with_its_process() -> None:
    code = "import time; from gdd.gpus import claim; print(claim(2).devices, flush=True); time.sleep(600)"
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": root}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as other:
        assert other.stdout
        assert other.stdout.readline() == "('0', '1')\n"
        got: list[Claim] = []
        waiting = threading.Thread(target=lambda: got.append(claim(1)))
        waiting.start()
        waiting.join(timeout=0.1)
        assert got == []
        other.kill()
    waiting.join(timeout=60)
    assert got[0].devices == ("0",)


@pytest.mark.parametrize(
    ("variable", "devices"),
    [
        ("", []),
        ("3, 1", ["3", "1"]),
        ("GPU-1,GPU-2,MIG-3", ["GPU-1", "GPU-2", "MIG-3"]),
        ("0,-1,2", ["0"]),
        ("0,0,1", ["0", "1"]),
    ],
)
def test_what_cuda_would_see(variable: str, devices: list[str]) -> None:
    see(variable)
    assert visible_devices() == devices


def test_all_of_the_machine_where_nobody_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    del os.environ["CUDA_VISIBLE_DEVICES"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert claim(1) == Claim()
    assert caplog.messages == ["1 GPU(s) asked for, none here."]
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ[gpus.DEVICE]) == ("", "cpu")
    del os.environ["CUDA_VISIBLE_DEVICES"], os.environ[gpus.DEVICE]
    driver(tmp_path, monkeypatch)
    monkeypatch.setenv("PATH", "/bin:/usr/bin", prepend=os.pathsep)
    assert claim(4).devices == ("0", "1")
    assert "4 GPU(s) asked for, 2 here." in caplog.messages
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_a_gpu_by_its_number_and_by_its_name_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch)
    assert claim_of("GPU-1111").devices == ("GPU-1111",)  # names may be cut short
    assert claim_of("0,1").devices == ("1",)


def test_locks_are_for_everybody_and_have_names_of_files(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        assert claim_of("MIG-GPU-1/1/0").devices == ("MIG-GPU-1/1/0",)  # as older drivers call it
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "locks").iterdir()}
    assert modes["MIG-GPU-1-1-0"] == 0o666
    assert set(modes.values()) == {0o666}


def test_none_hides_all() -> None:
    assert claim(0) == Claim()
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ[gpus.DEVICE]) == ("", "cpu")


def test_what_slurm_gave_is_the_jobs_own(tmp_path: Path) -> None:
    os.environ["SLURM_JOB_ID"] = "7"
    for _ in range(2):
        see("0,1")
        assert claim(2) == Claim(("0", "1"))
        see("0,1")
        assert claim(4) == Claim(("0", "1"))
    assert not (tmp_path / "locks").exists()
    # A job that was given more than a command of it asks for runs several of them.
    assert claim_of("0,1").devices == ("0",)
    assert claim_of("0,1").devices == ("1",)
    os.environ["SLURM_JOB_ID"] = "8"  # whose numbers may mean other GPUs
    assert claim_of("0,1").devices == ("0",)


@pytest.mark.parametrize("variable", ["", None])
def test_a_job_without_the_gpus_it_asked_for_does_not_go_on_silently(
    variable: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if variable is not None:
        see(variable)
    with pytest.raises(UserError, match=r"2 GPU\(s\) asked for in SLURM job 7, but it sees none; see what"):
        claim(2)
    assert claim(0) == Claim()
    os.environ[gpus.DEVICE] = "cpu"
    assert claim_of("", 2) == Claim()
