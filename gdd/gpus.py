"""Which GPUs of this machine a command may use.

Snakemake counts GPUs but assigns none, so all jobs of a workstation would compute on the first. `gdd --gpus
N` claims N of them by locks, which the kernel frees however the command ends, and hides the others.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import subprocess
import time
from itertools import takewhile
from pathlib import Path

from gdd.errors import UserError
from gdd.files import locked

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
DEVICE = "GDD_DEVICE"  # what `--device` is where nobody says it
LOCKS = "GDD_GPU_LOCKS"  # the folder of the locks; the same for all users of a machine
USUAL_LOCKS = "/tmp/gdd-gpus"
POLL = 0.5  # seconds between two looks for free GPUs

_for_life = contextlib.ExitStack()


def claim(count: int, held: contextlib.ExitStack = _for_life) -> tuple[str, ...]:
    """Make `count` GPUs this process's own, or all where there are fewer; wait for free ones.

    CUDA_VISIBLE_DEVICES is respected, and changed to what was claimed; for 0 it becomes empty. `held` takes
    the locks; usually they end with the process.

    Raises:
        UserError: a SLURM job asked for GPUs and sees none; with GDD_DEVICE=cpu it means to.
    """
    devices = visible_devices() if count else []
    if len(devices) < count:
        log.info("%d GPU(s) asked for, %s here.", count, len(devices) or "none")
    job = os.environ.get("SLURM_JOB_ID")
    if count and not devices and job and os.environ.get(DEVICE) != "cpu":
        raise UserError(
            f"{count} GPU(s) asked for in SLURM job {job}, but it sees none; see what SLURM gave it, or set "
            f"{DEVICE}=cpu to compute on the CPU."
        )
    count = min(count, len(devices))
    taken = _lock(devices, count, held)
    if count and not taken:
        log.warning("Waiting for %d of the GPUs %s, until another job ends.", count, ", ".join(devices))
    while count and not taken:
        time.sleep(POLL)
        taken = _lock(devices, count, held)
    if taken:
        log.info("Computing on GPU %s.", ", ".join(taken))
    # CUDA sees these GPUs only, and commands compute on them, or on the CPU where there are none.
    os.environ[VISIBLE] = ",".join(taken)
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # numbers mean what nvidia-smi means by them
    os.environ.setdefault(DEVICE, "cuda" if taken else "cpu")
    return taken


def visible_devices() -> list[str]:
    """Return the GPUs that this process may use: those in CUDA_VISIBLE_DEVICES, else all of the machine."""
    visible = os.environ.get(VISIBLE)
    if visible is None:
        return list(_installed())
    # As CUDA does: whatever follows an entry that is no GPU is not seen.
    return list(takewhile(re.compile(r"\d+|(GPU|MIG)-\S+").fullmatch, map(str.strip, visible.split(","))))


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
    return dict(re.findall(r"^(\d+), *(\S+)$", answer, re.MULTILINE))


def _lock(devices: list[str], count: int, held: contextlib.ExitStack) -> tuple[str, ...]:
    """Lock `count` GPUs that are free, or none: whoever held some and waited could block another for ever.

    A lock is called by the GPU's UUID: a SLURM job may number its GPUs from 0, whatever runs beside it.
    """
    folder, uuids = Path(os.environ.get(LOCKS, USUAL_LOCKS)), _installed()
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):  # another user's, who has done it
        folder.chmod(0o777)
    taken: list[str] = []
    with contextlib.ExitStack() as locks:
        for device in devices:
            file = folder / uuids.get(device, device)
            with contextlib.suppress(TimeoutError):
                locks.enter_context(locked(file, wait=False, everybody=True))
                taken.append(device)
            if len(taken) == count:
                held.enter_context(locks.pop_all())
                return tuple(taken)
    return ()
