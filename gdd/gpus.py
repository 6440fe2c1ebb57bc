"""Which GPUs of this machine a command may use.

Snakemake counts GPUs but assigns none, so all jobs of a workstation would compute on the first. `gdd --gpus
N` claims N of them by locks, which the kernel frees however the command ends, and hides the others.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gdd.errors import UserError

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
DEVICE = "GDD_DEVICE"  # what `--device` is where nobody says it
LOCKS = "GDD_GPU_LOCKS"  # the folder of the locks; the same for all users of a machine
USUAL_LOCKS = "/tmp/gdd-gpus"
LOOK = 0.5  # seconds between two looks for a free GPU
# Seconds after which one that waits gives back what it holds, so that two cannot wait for each other.
PATIENCE = (20.0, 40.0)


@dataclass(frozen=True)
class Claim:
    """GPUs, as CUDA_VISIBLE_DEVICES names them, and the descriptors that hold their locks."""

    devices: tuple[str, ...] = ()
    handles: tuple[int, ...] = ()


def claim(count: int) -> Claim:
    """Make `count` GPUs this process's own for its life, or all where there are fewer; wait for free ones.

    CUDA_VISIBLE_DEVICES is respected, and changed to what was claimed; for 0 it becomes empty. What SLURM
    gave a job is its own already. Processes that may go on after this one have to inherit the handles.

    Raises:
        UserError: a SLURM job asked for GPUs and sees none; with GDD_DEVICE=cpu it means to.
    """
    if count == 0:
        _show(())
        return Claim()
    devices = visible_devices()
    job = os.environ.get("SLURM_JOB_ID") if VISIBLE in os.environ else None
    if job and 0 < len(devices) <= count:
        _show(devices)
        return Claim(tuple(devices))
    if len(devices) < count:
        log.info("%d GPU(s) asked for, %s here.", count, len(devices) or "none")
    if not devices:
        if "SLURM_JOB_ID" in os.environ and os.environ.get(DEVICE) != "cpu":
            raise UserError(
                f"{count} GPU(s) asked for in SLURM job {os.environ['SLURM_JOB_ID']}, but it sees none; see "
                f"what SLURM gave it, or set {DEVICE}=cpu to compute on the CPU."
            )
        _show(())
        return Claim()
    names = _names(devices)
    if job:  # which may number its GPUs from 0, whatever others do beside it
        names = {device: f"slurm-{job}-{name}" for device, name in names.items()}
    held = _take_some(names, min(count, len(devices)))
    mine = tuple(device for device in devices if device in held)
    _show(mine)
    log.info("Computing on GPU %s.", ", ".join(mine))
    return Claim(mine, tuple(held.values()))


def visible_devices() -> list[str]:
    """Return the GPUs that this process may use: those in CUDA_VISIBLE_DEVICES, else all of the machine."""
    visible = os.environ.get(VISIBLE)
    if visible is None:
        return [index for index, _ in _installed()]
    devices = []
    for entry in (text.strip() for text in visible.split(",")):
        # As CUDA does: whatever follows an entry that is no GPU is not seen.
        if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", entry):
            break
        devices.append(entry)
    return list(dict.fromkeys(devices))


def _show(devices: Sequence[str]) -> None:
    """Let CUDA see these GPUs only, and the commands compute on them, or on the CPU where there are none."""
    os.environ[VISIBLE] = ",".join(devices)
    # Numbers mean what nvidia-smi means by them; CUDA's own order is by speed.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    os.environ.setdefault(DEVICE, "cuda" if devices else "cpu")


def _installed() -> list[tuple[str, str]]:
    """Return index and UUID of every GPU that the driver knows."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    pairs = (line.split(",") for line in told.splitlines() if line.count(",") == 1)
    return [(index.strip(), uuid.strip()) for index, uuid in pairs]


def _names(devices: Sequence[str]) -> dict[str, str]:
    """Return by GPU what its lock is called: its UUID, by whichever name it goes here, as a file's name."""
    known = dict(_installed())
    names = {}
    for device in devices:
        full = next((uuid for uuid in known.values() if uuid.startswith(device)), device)
        names[device] = known.get(device, full).replace("/", "-")  # older drivers: MIG-GPU-<UUID>/1/0
    return names


def _take_some(names: dict[str, str], count: int) -> dict[str, int]:
    """Return `count` GPUs with the descriptors of their locks; `names` holds the locks' names by GPU."""
    folder = _folder()
    alike = hashlib.sha256(" ".join(sorted(names.values())).encode()).hexdigest()[:16]
    queue = _open(
        folder / f"queue-{alike}"
    )  # who chooses from the same GPUs: one at a time, or few starve many
    held: dict[str, int] = {}
    told = False
    try:
        while not _locked(queue):
            told = told or _tell(names, count)
            time.sleep(LOOK)
        give_back = time.monotonic() + random.uniform(*PATIENCE)
        while True:
            for device, name in names.items():
                if len(held) < count and device not in held:
                    handle = _open(folder / name)
                    if _locked(handle):
                        held[device] = handle
                    else:
                        os.close(handle)
            if len(held) == count:
                return held
            told = told or _tell(names, count)
            if time.monotonic() > give_back:
                _close(held)
                give_back = time.monotonic() + random.uniform(*PATIENCE)
            time.sleep(LOOK)
    except BaseException:
        _close(held)
        raise
    finally:
        os.close(queue)


def _tell(names: dict[str, str], count: int) -> bool:
    which = f"GPU {next(iter(names))}" if len(names) == 1 else f"{count} of the GPUs {', '.join(names)}"
    log.warning("Waiting for %s, until another job ends.", which)
    return True


def _close(held: dict[str, int]) -> None:
    for handle in held.values():
        os.close(handle)
    held.clear()


def _folder() -> Path:
    folder = Path(os.environ.get(LOCKS, USUAL_LOCKS))
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):  # another user's, who has done it
        folder.chmod(0o1777)
    return folder


def _open(path: Path) -> int:
    # Another user's file in a folder that all may write to can be read, but not opened with O_CREAT.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        handle = os.open(path, flags | os.O_CREAT, 0o644)
        with contextlib.suppress(PermissionError):  # another user's, made in this instant
            os.fchmod(handle, 0o644)  # others have to open it as well, whatever the umask is
        return handle


def _locked(handle: int) -> bool:
    """Lock what the descriptor stands for and return True; False while another process holds it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
