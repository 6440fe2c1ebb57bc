from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from gdd.training import host_memory

FAULTS = """
import resource, sys
import torch
from gdd.training.host_memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
images = torch.ones(10 * 2**20)  # 40 MiB
for _ in range(40):  # until what small blocks have left of large ones is large enough
    images + 1
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    images + 1
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / (40 * 40 * 2**20))
"""


def fresh_memory(how: str) -> float:
    """Return how much of the memory that tensors of 40 MiB take comes fresh from the system."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True, timeout=120
    )
    return float(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_large_tensors_are_given_memory_that_was_freed() -> None:
    if tuple(map(int, platform.libc_ver()[1].split("."))) < (2, 35):
        pytest.skip("this glibc gives large blocks back whatever it is told")
    assert fresh_memory("kept") < 0.5
    assert fresh_memory("not kept") > 0.9  # or there would be nothing to gain


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.delattr(host_memory, "ctypes")
    host_memory.keep_freed_memory()


def test_an_old_glibc_is_left_with_what_it_would_come_to(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []

    class Library:
        def mallopt(self, parameter: int, value: int) -> int:
            told.append((parameter, value))
            return int(parameter != host_memory.MMAP_THRESHOLD or value <= 32 * 2**20)

    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda _: Library())
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.28"))
    host_memory.keep_freed_memory()
    mmap = [value for parameter, value in told if parameter == host_memory.MMAP_THRESHOLD]
    assert mmap == [2**30, 32 * 2**20]
    assert told[-1] == (host_memory.TRIM_THRESHOLD, 2**31 - 1)
