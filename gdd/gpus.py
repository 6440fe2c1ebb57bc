"""Which GPUs of this machine a command may use.

Snakemake counts GPUs but assigns none, so all jobs of a workstation would compute on the first. `gdd --gpus
N` claims N of them by locks, which the kernel frees however the command ends, and hides the others.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from gdd.errors import UserError
from gdd.files import locked

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
DEVICE = "GDD_DEVICE"  # what `--device` is where nobody says it
LOCKS = "GDD_GPU_LOCKS"  # the folder of the locks; the same for all users of a machine
USUAL_LOCKS = "/tmp/gdd-gpus"
POLL = 0.5  # seconds between two looks for free GPUs


@dataclass(frozen=True)
class Claim:
    """GPUs, as CUDA_VISIBLE_DEVICES names them, and their locks."""

    devices: tuple[str, ...] = ()
    locks: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, compare=False)


_claims: list[Claim] = []  # held for the process's life


def claim(count: int) -> Claim:
    """Make `count` GPUs this process's own for its life, or all where there are fewer; wait for free ones.

    CUDA_VISIBLE_DEVICES is respected, and changed to what was claimed; for 0 it becomes empty. What SLURM
    gave a job is its own already.

    Raises:
        UserError: a SLURM job asked for GPUs and sees none; with GDD_DEVICE=cpu it means to.
    """
    devices = visible_devices() if count else []
    job = os.environ.get("SLURM_JOB_ID")
    if len(devices) < count:
        log.info("%d GPU(s) asked for, %s here.", count, len(devices) or "none")
    if count and not devices and job and os.environ.get(DEVICE) != "cpu":
        raise UserError(
            f"{count} GPU(s) asked for in SLURM job {job}, but it sees none; see what SLURM gave it, or set "
            f"{DEVICE}=cpu to compute on the CPU."
        )
    given = job if VISIBLE in os.environ else None
    locks = contextlib.ExitStack()
    if devices and not (given and len(devices) <= count):
        names = _lock_names(devices)
        if given:  # a job may number its GPUs from 0, whatever others do beside it
            names = {device: f"slurm-{given}-{name}" for device, name in names.items()}
        devices = _take(names, min(count, len(devices)), locks)
        log.info("Computing on GPU %s.", ", ".join(devices))
    # CUDA sees these GPUs only, and commands compute on them, or on the CPU where there are none.
    os.environ[VISIBLE] = ",".join(devices)
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # numbers mean what nvidia-smi means by them
    os.environ.setdefault(DEVICE, "cuda" if devices else "cpu")
    _claims.append(Claim(tuple(devices), locks))
    return _claims[-1]


def visible_devices() -> list[str]:
    """Return the GPUs that this process may use: those in CUDA_VISIBLE_DEVICES, else all of the machine."""
    visible = os.environ.get(VISIBLE)
    if visible is None:
        return list(_installed())
    devices = []
    for entry in (text.strip() for text in visible.split(",")):
        # As CUDA does: whatever follows an entry that is no GPU is not seen.
        if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", entry):
            break
        devices.append(entry)
    return list(dict.fromkeys(devices))


def _installed() -> dict[str, str]:
    """Return the UUID of every GPU that the driver knows, by index."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    query = [program, "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    pairs = (line.split(",") for line in answer.splitlines() if line.count(",") == 1)
    return {index.strip(): uuid.strip() for index, uuid in pairs}


def _lock_names(devices: Iterable[str]) -> dict[str, str]:
    """Return by GPU what its lock is called: its UUID, by whichever name it goes here, as a file's name."""
    known = _installed()
    names = {}
    for device in devices:
        full = next((uuid for uuid in known.values() if uuid.startswith(device)), device)
        names[device] = known.get(device, full).replace("/", "-")  # older drivers: MIG-GPU-<UUID>/1/0
    return names


def _take(names: dict[str, str], count: int, locks: contextlib.ExitStack) -> list[str]:
    """Return `count` GPUs whose locks `locks` then holds; `names` are those of the locks, by GPU."""
    folder = Path(os.environ.get(LOCKS, USUAL_LOCKS))
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):  # another user's, who has done it
        folder.chmod(0o1777)
    which = f"GPU {next(iter(names))}" if len(names) == 1 else f"{count} of the GPUs {', '.join(names)}"

    def waiting() -> None:
        log.warning("Waiting for %s, until another job ends.", which)

    # Who chooses from the same GPUs waits in a queue, or commands with few would never let one with many in.
    alike = hashlib.sha256(" ".join(sorted(names.values())).encode()).hexdigest()[:16]
    with locked(folder / f"queue-{alike}", waiting=waiting, everybody=True):
        taken = _free(folder, names, count, locks)
        if not taken:
            waiting()
        while not taken:
            time.sleep(POLL)
            taken = _free(folder, names, count, locks)
    return taken


def _free(folder: Path, names: dict[str, str], count: int, locks: contextlib.ExitStack) -> list[str]:
    """Lock `count` GPUs that are free, or none: whoever held some and waited could block another for ever."""
    taken: list[str] = []
    with contextlib.ExitStack() as held:
        for device, name in names.items():
            with contextlib.suppress(TimeoutError):
                held.enter_context(locked(folder / name, patience=0, everybody=True))
                taken.append(device)
            if len(taken) == count:
                locks.enter_context(held.pop_all())
                return taken
    return []
